"""Operators that read or write by position."""

from collections.abc import Callable
from typing import Annotated, Any

import numpy as np

from perfxlm_core.ops.spec import Standard, TensorType, op
from perfxlm_core.ops.tensor_types import (
    I64,
    INDEX,
    B,
    E,
    axis_of,
    lengths_of,
    same_type,
)
from perfxlm_core.ops.types import Array

ELEMENT = Annotated[Array, "...", E]
POSITION = Annotated[Array, "...", INDEX]


def _positions(indices: Any, length: int) -> np.ndarray:  # noqa: ANN401
    """Indices with negative ones counted from the end; raises ValueError outside of the axis."""
    found = np.asarray(indices)
    if found.size and (found.min() < -length or found.max() >= length):
        raise ValueError(
            f"index {int(found.min())} or {int(found.max())} is outside of an axis of {length}"
        )
    return np.where(found < 0, found + length, found)


@op(onnx=Standard("Gather", 13))
def gather(x: ELEMENT, indices: POSITION, *, axis: int = 0) -> ELEMENT:
    """Slices of `x` at positions along `axis`, in the shape of `indices`.

    Raises:
        ValueError: an index is outside of the axis; negative ones count from the end.

    Source:
        ONNX Gather-13.
    """
    v = np.asarray(x)
    at = axis_of(axis, v.ndim)
    return np.take(v, _positions(indices, v.shape[at]), axis=at)


@gather.shapes
def _(x: TensorType, indices: TensorType, *, axis: int = 0) -> tuple[TensorType, ...]:
    if x.shape is None or indices.shape is None:
        return (TensorType(None, x.dtype),)
    at = axis_of(axis, len(x.shape))
    return (TensorType((*x.shape[:at], *indices.shape, *x.shape[at + 1 :]), x.dtype),)


@op(onnx=Standard("GatherElements", 13))
def gather_elements(x: ELEMENT, indices: POSITION, *, axis: int = 0) -> ELEMENT:
    """`out[i, j] = x[indices[i, j], j]` for axis 0, other axes alike.

    Source:
        ONNX GatherElements-13.
    """
    v = np.asarray(x)
    at = axis_of(axis, v.ndim)
    where = _positions(indices, v.shape[at])
    region = tuple(slice(n) if i != at else slice(None) for i, n in enumerate(where.shape))
    return np.take_along_axis(v[region], where, axis=at)


@op(onnx=Standard("GatherND", 13))
def gather_nd(x: ELEMENT, indices: Annotated[Array, "...", I64], *, batch_dims: int = 0) -> ELEMENT:
    """Slices of `x`, each named by a vector of positions in the last axis of `indices`.

    Args:
        batch_dims: leading axes that both have in common.

    Source:
        ONNX GatherND-13.
    """
    v, where = np.asarray(x), np.asarray(indices)
    batch = where.shape[:batch_dims]
    grids = np.indices(batch).reshape(batch_dims, *batch, *(1,) * (where.ndim - batch_dims - 1))
    columns = [_positions(where[..., i], v.shape[batch_dims + i]) for i in range(where.shape[-1])]
    return v[(*grids, *columns)]


_REDUCTIONS: dict[str, Callable[[Any, Any], Any]] = {
    "add": np.add,
    "mul": np.multiply,
    "max": np.maximum,
    "min": np.minimum,
}


def _known_reduction(dims: object, *, reduction: str = "none", axis: int = 0) -> None:
    if reduction != "none" and reduction not in _REDUCTIONS:
        raise ValueError(f"reduction={reduction!r}, want none, {', '.join(_REDUCTIONS)}")


def _write(out: np.ndarray, index: Any, updates: np.ndarray, reduction: str) -> np.ndarray:  # noqa: ANN401
    if reduction == "none":
        out[index] = updates
    elif out.dtype.kind == "V":
        wide = out.astype(np.float32)
        _REDUCTIONS[reduction].at(wide, index, updates.astype(np.float32))  # type: ignore[attr-defined]
        return wide.astype(out.dtype)
    else:
        _REDUCTIONS[reduction].at(out, index, updates)  # type: ignore[attr-defined]
    return out


@op(onnx=Standard("ScatterElements", 18), requires=_known_reduction)
def scatter_elements(
    x: ELEMENT, indices: POSITION, updates: ELEMENT, *, axis: int = 0, reduction: str = "none"
) -> ELEMENT:
    """A copy of `x` with `out[indices[i, j], j] = updates[i, j]` for axis 0, other axes alike.

    Args:
        reduction: "none" writes; "add", "mul", "max" and "min" combine with what is there.

    Source:
        ONNX ScatterElements-18.
    """
    v = np.asarray(x)
    at = axis_of(axis, v.ndim)
    index: list[Any] = list(np.indices(np.asarray(indices).shape))
    index[at] = _positions(indices, v.shape[at])
    return _write(v.copy(), tuple(index), np.asarray(updates), reduction)


@op(onnx=Standard("ScatterND", 18), requires=_known_reduction)
def scatter_nd(
    x: ELEMENT,
    indices: Annotated[Array, "...", I64],
    updates: ELEMENT,
    *,
    reduction: str = "none",
) -> ELEMENT:
    """A copy of `x` in which slices, named as in `gather_nd`, are replaced by `updates`.

    Args:
        reduction: see `scatter_elements`.

    Source:
        ONNX ScatterND-18.
    """
    v, where = np.asarray(x), np.asarray(indices)
    index = tuple(_positions(where[..., i], v.shape[i]) for i in range(where.shape[-1]))
    return _write(v.copy(), index, np.asarray(updates), reduction)


def _known_write(dims: object, *, mode: str = "linear", axis: int = -2) -> None:
    if mode not in ("linear", "circular"):
        raise ValueError(f"mode={mode!r}, want 'linear' or 'circular'")


@op(onnx=Standard("TensorScatter", 24), requires=_known_write)
def tensor_scatter(
    cache: ELEMENT,
    update: ELEMENT,
    write_indices: Annotated[Array, "...", I64] | None = None,
    *,
    axis: int = -2,
    mode: str = "linear",
) -> ELEMENT:
    """A copy of a cache with new entries along `axis`, from each sequence's own position on.

    Args:
        write_indices: first position for each element of the batch; 0 when left out.
        mode: "circular" goes on at the front when it reaches the end.

    Raises:
        ValueError: the update is longer than the cache, or does not fit behind its position.

    Source:
        ONNX TensorScatter-24.
    """
    out, new = np.asarray(cache).copy(), np.asarray(update)
    at = axis_of(axis, out.ndim)
    if at == 0 or new.shape != (*out.shape[:at], new.shape[at], *out.shape[at + 1 :]):
        raise ValueError(f"an update of shape {new.shape} to axis {at} of a cache {out.shape}")
    starts = np.zeros(len(out), np.int64) if write_indices is None else np.asarray(write_indices)
    where = starts[:, None] + np.arange(new.shape[at])
    where = where % out.shape[at] if mode == "circular" else where
    if where.size and (where.min() < 0 or where.max() >= out.shape[at]):
        raise ValueError(f"positions up to {int(where.max())} of a cache of {out.shape[at]}")
    np.moveaxis(out, at, 1)[np.arange(len(out))[:, None], where] = np.moveaxis(new, at, 1)
    return out


tensor_scatter.shapes(same_type)
scatter_nd.shapes(same_type)
scatter_elements.shapes(same_type)


@op(onnx=Standard("NonZero", 13))
def nonzero(x: ELEMENT) -> Annotated[Array, "...", I64]:
    """Positions of elements that are not zero, an axis a row. Source: ONNX NonZero-13."""
    v = np.asarray(x)
    if v.ndim == 0:
        return np.zeros((0, int(bool(v))), np.int64)
    return np.array(np.nonzero(v), np.int64)


@op(onnx=Standard("Compress", 28))
def compress(
    x: ELEMENT, condition: Annotated[Array, "...", B], *, axis: int | None = None
) -> ELEMENT:
    """Slices along `axis` (elements, without one) where the condition holds.

    Source:
        ONNX Compress-28.
    """
    return np.compress(np.asarray(condition), np.asarray(x), axis=axis)


@op(onnx=Standard("ReverseSequence", 28))
def reverse_sequence(
    x: ELEMENT,
    lengths: Annotated[Array, "...", I64],
    *,
    batch_axis: int = 1,
    time_axis: int = 0,
) -> ELEMENT:
    """The first `lengths[b]` steps of each sequence backwards. Source: ONNX ReverseSequence-28."""
    v = np.moveaxis(np.asarray(x), (batch_axis, time_axis), (0, 1))
    out = v.copy()
    for row, n in enumerate(lengths_of(lengths)):
        out[row, :n] = v[row, :n][::-1]
    return np.moveaxis(out, (0, 1), (batch_axis, time_axis))


reverse_sequence.shapes(same_type)
gather_elements.shapes(lambda x, indices, *, axis: (TensorType(indices.shape, x.dtype),))
gather_nd.shapes(lambda x, *_, **__: (TensorType(None, x.dtype),))
compress.shapes(lambda x, *_, **__: (TensorType(None, x.dtype),))
nonzero.shapes(lambda x: (TensorType(None, "int64"),))
