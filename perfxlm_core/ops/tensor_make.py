"""Operators that make tensors: of one value, of steps, of diagonals, of what differs."""

from typing import Annotated

import numpy as np

from perfxlm_core.ops.spec import Standard, TensorType, op
from perfxlm_core.ops.tensor_types import (
    E2,
    I64,
    N2,
    E,
    N,
    axis_of,
    lengths_of,
    rounded,
    same_type,
)
from perfxlm_core.ops.types import Array, numpy_dtype

ELEMENT = Annotated[Array, "...", E]


@op(onnx=Standard("OneHot", 28))
def one_hot(
    indices: Annotated[Array, "...", N],
    depth: Annotated[Array, "...", N2],
    values: ELEMENT,
    *,
    axis: int = -1,
) -> ELEMENT:
    """`values[1]` at each index along a new axis of length `depth`, else `values[0]`.

    Source:
        ONNX OneHot-28.
    """
    where = np.asarray(indices).astype(np.int64)
    length, (off, on) = int(np.asarray(depth).reshape(())), np.asarray(values)
    at = axis_of(axis, where.ndim + 1)
    where = np.where(where < 0, where + length, where)
    steps = np.arange(length).reshape([-1 if i == at else 1 for i in range(where.ndim + 1)])
    return np.where(np.expand_dims(where, at) == steps, on, off)


@op(onnx=Standard("Trilu", 14))
def triangle(
    x: ELEMENT, k: Annotated[Array, "...", I64] | None = None, *, upper: int = 1
) -> ELEMENT:
    """Zero below (or above) the `k`-th diagonal of each matrix. Source: ONNX Trilu-14."""
    v, offset = np.asarray(x), 0 if k is None else int(np.asarray(k).reshape(()))
    rows, columns = v.shape[-2:]
    keep = np.tri(rows, columns, k=offset - 1 if upper else offset, dtype=bool)
    return np.where(~keep if upper else keep, v, np.zeros((), v.dtype))


@op(onnx=Standard("Range", 27))
def arange(
    start: Annotated[Array, "...", N],
    limit: Annotated[Array, "...", N],
    delta: Annotated[Array, "...", N],
    *,
    stash_type: int = 1,
) -> Annotated[Array, "...", N]:
    """`start`, `start + delta`, ... before `limit`.

    Args:
        stash_type: accepted; 16-bit floats are always counted in float32.

    Source:
        ONNX Range-27.
    """

    def count(*ends: np.ndarray) -> np.ndarray:
        first, last, step = (e.reshape(()) for e in ends)
        n = max(int(np.ceil((last - first) / step)), 0)
        return first + np.arange(n).astype(first.dtype) * step

    return rounded(count, start, limit, delta)


@op(onnx=Standard("ConstantOfShape", 25))
def full(
    shape: Annotated[Array, "...", I64], *, value: float | bool = 0.0, dtype: str = "float32"
) -> Annotated[Array, "...", E2]:
    """One value in every element. Source: ONNX ConstantOfShape-25."""
    return np.full(lengths_of(shape), value, numpy_dtype(dtype))


@op(onnx=Standard("EyeLike", 22))
def eye_like(
    x: Annotated[Array, "...", E], *, k: int = 0, dtype: str | None = None
) -> Annotated[Array, "...", E2]:
    """1 on the `k`-th diagonal, else 0, in the shape of a matrix. Source: ONNX EyeLike-22."""
    v = np.asarray(x)
    rows, columns = v.shape
    return np.eye(rows, columns, k=k, dtype=v.dtype if dtype is None else numpy_dtype(dtype))


@op(outputs=("values", "indices", "inverse", "counts"), onnx=Standard("Unique", 28))
def unique(
    x: ELEMENT, *, axis: int | None = None, sorted: int = 1
) -> tuple[
    Annotated[Array, "...", E],
    Annotated[Array, "...", I64],
    Annotated[Array, "...", I64],
    Annotated[Array, "...", I64],
]:
    """Elements (or slices along `axis`) that differ: first places, each one's number, counts.

    Args:
        sorted: 0 keeps the order in which they first occur.

    Source:
        ONNX Unique-28.
    """
    values, first, inverse, counts = np.unique(
        np.asarray(x), return_index=True, return_inverse=True, return_counts=True, axis=axis
    )
    inverse = inverse.reshape(-1)
    if not sorted:
        order = np.argsort(first)
        values = np.take(values, order, axis=0 if axis is None else axis)
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        first, counts, inverse = first[order], counts[order], rank[inverse]
    return values, first.astype(np.int64), inverse.astype(np.int64), counts.astype(np.int64)


triangle.shapes(same_type)
arange.shapes(lambda start, *_, **__: (TensorType(None, start.dtype),))
full.shapes(lambda shape, *, value, dtype: (TensorType(None, dtype),))
eye_like.shapes(lambda x, *, k, dtype: (TensorType(x.shape, x.dtype if dtype is None else dtype),))
one_hot.shapes(lambda indices, depth, values, *, axis: (TensorType(None, values.dtype),))
unique.shapes(lambda x, **_: (TensorType(None, x.dtype), *(TensorType(None, "int64"),) * 3))
