"""Operators on the form of tensors: shapes, axes, pieces, repetition and padding."""

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np

from perfxlm_core.ops.spec import Standard, TensorType, op
from perfxlm_core.ops.tensor_types import (
    I64,
    INDEX,
    E,
    axes_of,
    axis_of,
    lengths_of,
    same_type,
)
from perfxlm_core.ops.types import Array

ELEMENT = Annotated[Array, "...", E]
LENGTHS = Annotated[Array, "...", I64]


@op(onnx=Standard("Identity", 25))
def identity(x: Annotated[Array, "*shape", E]) -> Annotated[Array, "*shape", E]:
    """`out = x`. Source: ONNX Identity-25."""
    return np.asarray(x)


@op(onnx=Standard("Shape", 25))
def shape_of(x: ELEMENT, *, start: int = 0, end: int | None = None) -> LENGTHS:
    """Lengths of the axes from `start` to before `end`, as a vector. Source: ONNX Shape-25."""
    return np.array(np.asarray(x).shape[_axes_range(np.ndim(np.asarray(x)), start, end)], np.int64)


def _axes_range(rank: int, start: int, end: int | None) -> slice:
    first = min(max(start + rank if start < 0 else start, 0), rank)
    last = rank if end is None else min(max(end + rank if end < 0 else end, 0), rank)
    return slice(first, max(first, last))


@shape_of.shapes
def _(x: TensorType, *, start: int = 0, end: int | None = None) -> tuple[TensorType, ...]:
    if x.shape is None:
        return (TensorType(None, "int64"),)
    return (TensorType((len(x.shape[_axes_range(len(x.shape), start, end)]),), "int64"),)


@op(onnx=Standard("Size", 25))
def size_of(x: ELEMENT) -> LENGTHS:
    """The number of elements. Source: ONNX Size-25."""
    return np.array(np.asarray(x).size, np.int64)


size_of.shapes(lambda x: (TensorType((), "int64"),))


@op(onnx=Standard("Reshape", 25))
def reshape_to(x: ELEMENT, shape: LENGTHS, *, allowzero: int = 0) -> ELEMENT:
    """The same elements in row-major order under another shape.

    Args:
        shape: lengths; at most one -1, which takes what is left.
        allowzero: whether 0 means no elements; otherwise it keeps the length of that axis.

    Raises:
        ValueError: the number of elements differs.

    Source:
        ONNX Reshape-25.
    """
    v = np.asarray(x)
    want = [int(n) for n in np.asarray(shape).reshape(-1)]
    if not allowzero:
        want = [v.shape[i] if n == 0 else n for i, n in enumerate(want)]
    return v.reshape(want)


@op(onnx=Standard("Flatten", 25))
def flatten(x: ELEMENT, *, axis: int = 1) -> ELEMENT:
    """A matrix: axes before `axis` become rows, the others columns. Source: ONNX Flatten-25."""
    v = np.asarray(x)
    at = axis + v.ndim if axis < 0 else axis
    return v.reshape(int(np.prod(v.shape[:at], dtype=np.int64)), -1 if v.size else
                     int(np.prod(v.shape[at:], dtype=np.int64)))  # fmt: skip


@op(onnx=Standard("Transpose", 25))
def transpose(x: ELEMENT, *, perm: Sequence[int] | None = None) -> ELEMENT:
    """Axes in another order: output axis `i` is input axis `perm[i]`; reversed when left out.

    A plan treats it as strides where the reader can follow them.

    Source:
        ONNX Transpose-25.
    """
    return np.transpose(np.asarray(x), perm)


@transpose.shapes
def _(x: TensorType, *, perm: Sequence[int] | None = None) -> tuple[TensorType, ...]:
    if x.shape is None:
        return (x,)
    order = range(len(x.shape))[::-1] if perm is None else perm
    if sorted(order) != list(range(len(x.shape))):
        raise ValueError(f"transpose: perm={list(order)} for {len(x.shape)} dimensions")
    return (TensorType(tuple(x.shape[i] for i in order), x.dtype),)


@op(onnx=Standard("Squeeze", 25))
def squeeze(x: ELEMENT, axes: LENGTHS | None = None) -> ELEMENT:
    """Remove axes of length 1: those named, or all of them. Source: ONNX Squeeze-25."""
    v = np.asarray(x)
    return np.squeeze(v) if axes is None else np.squeeze(v, axis=axes_of(axes, v.ndim))


@op(onnx=Standard("Unsqueeze", 25))
def unsqueeze(x: ELEMENT, axes: LENGTHS) -> ELEMENT:
    """Insert axes of length 1, at their positions in the output. Source: ONNX Unsqueeze-25."""
    v = np.asarray(x)
    return np.expand_dims(v, axes_of(axes, v.ndim + np.asarray(axes).size))


@op(onnx=Standard("Concat", 13))
def concat(inputs: Sequence[Annotated[Array, "...", E]], *, axis: int) -> ELEMENT:
    """The inputs one after another along `axis`. Source: ONNX Concat-13."""
    return np.concatenate([np.asarray(x) for x in inputs], axis=axis)


@concat.shapes
def _(inputs: Sequence[TensorType], *, axis: int) -> tuple[TensorType, ...]:
    shapes = [x.shape for x in inputs]
    if any(s is None or len(s) != len(shapes[0] or ()) for s in shapes) or not shapes[0]:
        return (TensorType(None, inputs[0].dtype),)
    at = axis_of(axis, len(shapes[0]))
    total: Any = shapes[0][at]
    for shape in shapes[1:]:
        total = total + shape[at] if shape is not None else total
    return (TensorType((*shapes[0][:at], total, *shapes[0][at + 1 :]), inputs[0].dtype),)


@op(onnx=Standard("Split", 18))
def split(
    x: ELEMENT, lengths: LENGTHS | None = None, *, axis: int = 0, num_outputs: int | None = None
) -> tuple[Annotated[Array, "...", E], ...]:
    """Pieces along `axis`: of these lengths, or `num_outputs` even ones, the last one smaller.

    Raises:
        ValueError: the lengths do not add up, or neither they nor the number is given.

    Source:
        ONNX Split-18.
    """
    v = np.asarray(x)
    at = axis_of(axis, v.ndim)
    if lengths is not None:
        sizes = lengths_of(lengths)
    elif num_outputs is None or num_outputs < 1:
        raise ValueError("needs the lengths of the pieces or their number")
    else:
        each = -(-v.shape[at] // num_outputs)
        sizes = (*(each,) * (num_outputs - 1), v.shape[at] - each * (num_outputs - 1))
    if sum(sizes) != v.shape[at] or min(sizes, default=0) < 0:
        raise ValueError(f"pieces {list(sizes)} of an axis of length {v.shape[at]}")
    ends = np.cumsum(sizes)[:-1].tolist()
    return tuple(np.split(v, ends, axis=at))


@split.shapes
def _(
    x: TensorType,
    lengths: TensorType | None = None,
    *,
    axis: int = 0,
    num_outputs: int | None = None,
) -> tuple[TensorType, ...]:
    if num_outputs is not None:
        return (TensorType(None, x.dtype),) * num_outputs
    if lengths is not None and lengths.shape is not None and isinstance(lengths.shape[0], int):
        return (TensorType(None, x.dtype),) * lengths.shape[0]
    raise ValueError("split: the number of pieces must be known when the graph is built")


@op(onnx=Standard("Expand", 13))
def expand_to(x: ELEMENT, shape: LENGTHS) -> ELEMENT:
    """Broadcast `x` and `shape` together, both ways. Source: ONNX Expand-13."""
    v = np.asarray(x)
    return np.broadcast_to(v, np.broadcast_shapes(v.shape, lengths_of(shape)))


@op(onnx=Standard("Tile", 13))
def tile(x: ELEMENT, repeats: LENGTHS) -> ELEMENT:
    """The whole tensor repeated along each axis. Source: ONNX Tile-13."""
    return np.tile(np.asarray(x), lengths_of(repeats))


PIECE = Annotated[Array, "...", INDEX]


@op(onnx=Standard("Slice", 13))
def slice_axes(
    x: ELEMENT,
    starts: PIECE,
    ends: PIECE,
    axes: PIECE | None = None,
    steps: PIECE | None = None,
) -> ELEMENT:
    """From `starts` to before `ends` in strides of `steps` along each of `axes`.

    Args:
        starts: positions; negative ones count from the end; clamped to the axis.
        ends: like `starts`.
        axes: all from the first when left out.
        steps: not 0; negative ones go backwards.

    Raises:
        ValueError: a step is 0, or an axis does not exist.

    Source:
        ONNX Slice-13.
    """
    v = np.asarray(x)
    first, last = (np.asarray(a).reshape(-1).tolist() for a in (starts, ends))
    along = tuple(range(len(first))) if axes is None else axes_of(axes, v.ndim)
    stride = [1] * len(first) if steps is None else np.asarray(steps).reshape(-1).tolist()
    index: list[slice] = [slice(None)] * v.ndim
    for axis, a, b, step in zip(along, first, last, stride, strict=True):
        index[axis] = _bounds(a, b, step, v.shape[axis])
    return v[tuple(index)]


def _bounds(start: int, end: int, step: int, length: int) -> slice:
    if step == 0:
        raise ValueError("a step of 0")
    start, end = (n + length if n < 0 else n for n in (start, end))
    if step > 0:
        return slice(min(max(start, 0), length), min(max(end, 0), length), step)
    end = min(max(end, -1), length - 1)
    return slice(min(max(start, 0), length - 1), None if end < 0 else end, step)


def _known_mode(dims: object, *, mode: str = "constant") -> None:
    if mode not in ("constant", "edge", "reflect", "wrap"):
        raise ValueError(f"mode={mode!r}, want constant, edge, reflect or wrap")


@op(onnx=Standard("Pad", 25), requires=_known_mode)
def pad(
    x: ELEMENT,
    pads: LENGTHS,
    value: ELEMENT | None = None,
    axes: Annotated[Array, "...", INDEX] | None = None,
    *,
    mode: str = "constant",
) -> ELEMENT:
    """Add elements before and after along each of `axes`; negative counts cut them off.

    Args:
        pads: counts before for every axis, then counts after.
        value: what to add in mode "constant"; 0 when left out.
        axes: all when left out.
        mode: "constant", or NumPy's "edge", "reflect" or "wrap".

    Source:
        ONNX Pad-25.
    """
    v = np.asarray(x)
    along = tuple(range(v.ndim)) if axes is None else axes_of(axes, v.ndim)
    counts = [int(n) for n in np.asarray(pads).reshape(-1)]
    if len(counts) != 2 * len(along):
        raise ValueError(f"{len(counts)} pads for {len(along)} axes")
    widths, cut = [(0, 0)] * v.ndim, [slice(None)] * v.ndim
    for i, axis in enumerate(along):
        before, after = counts[i], counts[i + len(along)]
        widths[axis] = (max(before, 0), max(after, 0))
        cut[axis] = slice(max(-before, 0), v.shape[axis] - max(-after, 0))
    v = v[tuple(cut)]
    if mode != "constant":
        return np.pad(v, widths, mode=mode)  # type: ignore[call-overload]
    fill = np.zeros((), v.dtype) if value is None else np.asarray(value).reshape(())
    return np.pad(v, widths, constant_values=fill)


def _rearrange(v: np.ndarray, block: int, order: Sequence[int], to: Any) -> np.ndarray:  # noqa: ANN401
    n, c, h, w = v.shape
    parts = (n, c, h // block, block, w // block, block) if to == "depth" else (
        (n, block, block, c // block**2, h, w) if to == "DCR" else
        (n, c // block**2, block, block, h, w)
    )  # fmt: skip
    shape = (
        (n, c * block**2, h // block, w // block)
        if to == "depth"
        else (n, c // block**2, h * block, w * block)
    )
    return v.reshape(parts).transpose(order).reshape(shape)


@op(onnx=Standard("DepthToSpace", 28))
def depth_to_space(x: ELEMENT, *, blocksize: int, mode: str = "DCR") -> ELEMENT:
    """Channels into blocks of the plane. Source: ONNX DepthToSpace-28."""
    order = (0, 3, 4, 1, 5, 2) if mode == "DCR" else (0, 1, 4, 2, 5, 3)
    return _rearrange(np.asarray(x), blocksize, order, mode)


@op(onnx=Standard("SpaceToDepth", 28))
def space_to_depth(x: ELEMENT, *, blocksize: int, mode: str = "DCR") -> ELEMENT:
    """Blocks of the plane into channels. Source: ONNX SpaceToDepth-28."""
    order = (0, 3, 5, 1, 2, 4) if mode == "DCR" else (0, 1, 3, 5, 2, 4)
    return _rearrange(np.asarray(x), blocksize, order, "depth")


for _op in (expand_to, tile, slice_axes, pad, unsqueeze, squeeze, reshape_to, flatten):
    _op.shapes(lambda x, *_, **__: (TensorType(None, x.dtype),))
identity.shapes(same_type)
