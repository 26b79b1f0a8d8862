"""Sums, extremes and other results over whole axes, and running sums along one."""

from collections.abc import Callable
from typing import Annotated, Any

import numpy as np

from perfxlm_core.ops.spec import Standard, TensorType, op
from perfxlm_core.ops.tensor_types import (
    I64,
    INDEX,
    F,
    N,
    axes_of,
    axis_of,
    rounded,
    same_type,
)
from perfxlm_core.ops.types import Array, DTypes

N_OR_BOOL = DTypes("NB", (*N.allowed, "bool"))
"""Numbers and truth values, which have an order as well."""


def _reduce(
    fn: Callable[..., Any],
    x: Any,  # noqa: ANN401
    axes: Any,  # noqa: ANN401
    keepdims: int,
    noop: int,
    alone: Callable[..., Any] = lambda v: v,
) -> np.ndarray:
    """`fn(x, axis=..., keepdims=...)` over `axes`; over all, or `alone` of each, without any."""
    given = np.asarray(x)
    if axes is None or np.asarray(axes).size == 0:
        if noop:
            return rounded(alone, given)
        axis = tuple(range(given.ndim))
    else:
        axis = axes_of(axes, given.ndim)
    return rounded(lambda v: fn(v, axis=axis, keepdims=bool(keepdims)), given)


def _no_rows(x: Any, axes: Any, keepdims: int, fill: Any) -> np.ndarray | None:  # noqa: ANN401
    """The result over an empty axis of what has no neutral element; None if nothing is empty."""
    given = np.asarray(x)
    if given.size:
        return None
    axis = tuple(range(given.ndim)) if axes is None else axes_of(axes, given.ndim)
    return np.full_like(given.sum(axis=axis, keepdims=bool(keepdims)), fill, dtype=given.dtype)


@op(onnx=Standard("ReduceSum", 13))
def reduce_sum(
    x: Annotated[Array, "...", N],
    axes: Annotated[Array, "...", I64] | None = None,
    *,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> Annotated[Array, "...", N]:
    """Sum over `axes`, all of them when left out.

    Args:
        keepdims: keep the axes, with length 1.
        noop_with_empty_axes: without axes, change nothing.

    Source:
        ONNX ReduceSum-13.
    """
    return _reduce(np.sum, x, axes, keepdims, noop_with_empty_axes)


@op(onnx=Standard("ReduceMean", 18))
def reduce_mean(
    x: Annotated[Array, "...", N],
    axes: Annotated[Array, "...", I64] | None = None,
    *,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> Annotated[Array, "...", N]:
    """Mean over `axes`; see `reduce_sum`. Source: ONNX ReduceMean-18."""
    return _reduce(np.mean, x, axes, keepdims, noop_with_empty_axes)


def _extreme(
    fn: Callable[..., Any],
    x: Any,  # noqa: ANN401
    axes: Any,  # noqa: ANN401
    keepdims: int,
    noop: int,
    *,
    largest: bool,
) -> np.ndarray:
    v = np.asarray(x)
    if v.dtype == np.bool_:
        v = v.astype(np.uint8)
    if v.dtype.kind in "fV":
        fill: Any = -np.inf if largest else np.inf
    else:
        info = np.iinfo(v.dtype)
        fill = info.min if largest else info.max
    empty = _no_rows(v, axes, keepdims, fill)
    found = _reduce(fn, v, axes, keepdims, noop) if empty is None else empty
    return found.astype(np.asarray(x).dtype)


@op(onnx=Standard("ReduceMax", 20))
def reduce_max(
    x: Annotated[Array, "...", N_OR_BOOL],
    axes: Annotated[Array, "...", I64] | None = None,
    *,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> Annotated[Array, "...", N_OR_BOOL]:
    """Largest element over `axes`; the dtype's lowest value if there is none.

    Source:
        ONNX ReduceMax-20.
    """
    return _extreme(np.max, x, axes, keepdims, noop_with_empty_axes, largest=True)


@op(onnx=Standard("ReduceMin", 20))
def reduce_min(
    x: Annotated[Array, "...", N_OR_BOOL],
    axes: Annotated[Array, "...", I64] | None = None,
    *,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> Annotated[Array, "...", N_OR_BOOL]:
    """Smallest element over `axes`; the dtype's highest value if there is none.

    Source:
        ONNX ReduceMin-20.
    """
    return _extreme(np.min, x, axes, keepdims, noop_with_empty_axes, largest=False)


@op(onnx=Standard("ReduceProd", 18))
def reduce_prod(
    x: Annotated[Array, "...", N],
    axes: Annotated[Array, "...", I64] | None = None,
    *,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> Annotated[Array, "...", N]:
    """Product over `axes`; see `reduce_sum`. Source: ONNX ReduceProd-18."""
    return _reduce(np.prod, x, axes, keepdims, noop_with_empty_axes)


@op(onnx=Standard("ReduceL2", 18))
def reduce_l2(
    x: Annotated[Array, "...", N],
    axes: Annotated[Array, "...", I64] | None = None,
    *,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> Annotated[Array, "...", N]:
    """Square root of the sum of squares over `axes`. Source: ONNX ReduceL2-18."""

    def norm(v: np.ndarray, **kwargs: Any) -> Any:  # noqa: ANN401
        return np.sqrt(np.sum(v * v, **kwargs))

    return _reduce(norm, x, axes, keepdims, noop_with_empty_axes, np.abs)


@op(onnx=Standard("ReduceLogSumExp", 28))
def reduce_log_sum_exp(
    x: Annotated[Array, "...", N],
    axes: Annotated[Array, "...", I64] | None = None,
    *,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> Annotated[Array, "...", N]:
    """`log(sum(exp(x)))` over `axes`, without overflow. Source: ONNX ReduceLogSumExp-28."""

    def log_sum_exp(v: np.ndarray, *, axis: tuple[int, ...], keepdims: bool) -> Any:  # noqa: ANN401
        top = np.max(v, axis=axis, keepdims=True)
        top = np.where(np.isfinite(top), top, 0)
        out = np.log(np.sum(np.exp(v - top), axis=axis, keepdims=True)) + top
        return out if keepdims else np.squeeze(out, axis=axis)

    empty = _no_rows(x, axes, keepdims, -np.inf)
    if empty is not None:
        return empty
    return _reduce(log_sum_exp, x, axes, keepdims, noop_with_empty_axes)


def _reduced_type(
    x: TensorType,
    axes: TensorType | None = None,
    *,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> tuple[TensorType, ...]:
    if axes is None and x.shape is not None and not noop_with_empty_axes:
        return (TensorType((1,) * len(x.shape) if keepdims else (), x.dtype),)
    if x.shape is not None and keepdims and axes is not None:
        return (TensorType(None, x.dtype),)
    return (TensorType(x.shape if axes is None else None, x.dtype),)


for _op in (
    reduce_sum, reduce_mean, reduce_max, reduce_min, reduce_prod, reduce_l2, reduce_log_sum_exp,
):  # fmt: skip
    _op.shapes(_reduced_type)


def _argument(
    fn: Callable[..., Any],
    x: Any,  # noqa: ANN401
    axis: int,
    keepdims: int,
    last: int,
) -> np.ndarray:
    v = np.asarray(x)
    axis = axis_of(axis, v.ndim)
    found = v.shape[axis] - 1 - fn(np.flip(v, axis), axis=axis) if last else fn(v, axis=axis)
    found = np.asarray(found, np.int64)
    return np.expand_dims(found, axis) if keepdims else found


@op(onnx=Standard("ArgMax", 13))
def argmax(
    x: Annotated[Array, "...", N], *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0
) -> Annotated[Array, "...", I64]:
    """Position of the largest element along `axis`: the first one, or the last one.

    Source:
        ONNX ArgMax-13.
    """
    return _argument(np.argmax, x, axis, keepdims, select_last_index)


@op(onnx=Standard("ArgMin", 13))
def argmin(
    x: Annotated[Array, "...", N], *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0
) -> Annotated[Array, "...", I64]:
    """Position of the smallest element along `axis`. Source: ONNX ArgMin-13."""
    return _argument(np.argmin, x, axis, keepdims, select_last_index)


@argmax.shapes
@argmin.shapes
def _(
    x: TensorType, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0
) -> tuple[TensorType, ...]:
    if x.shape is None:
        return (TensorType(None, "int64"),)
    axis = axis_of(axis, len(x.shape))
    middle = (1,) if keepdims else ()
    return (TensorType((*x.shape[:axis], *middle, *x.shape[axis + 1 :]), "int64"),)


def _running(
    fn: Callable[..., Any],
    x: Any,  # noqa: ANN401
    axis: Any,  # noqa: ANN401
    first: int,
    exclusive: int,
    reverse: int,
) -> np.ndarray:
    v = np.asarray(x)
    at = axis_of(int(np.asarray(axis).reshape(())), v.ndim)

    def scan(v: np.ndarray) -> np.ndarray:
        v = np.flip(v, at) if reverse else v
        out = fn(v, axis=at, dtype=v.dtype)
        if exclusive:
            before = np.take(out, range(v.shape[at] - 1), axis=at)
            start = np.full_like(np.take(v, range(min(1, v.shape[at])), axis=at), first)
            out = np.concatenate([start, before], axis=at)
        return np.flip(out, at) if reverse else out

    return rounded(scan, v)


@op(onnx=Standard("CumSum", 14))
def cumulative_sum(
    x: Annotated[Array, "*shape", N],
    axis: Annotated[Array, "...", INDEX],
    *,
    exclusive: int = 0,
    reverse: int = 0,
) -> Annotated[Array, "*shape", N]:
    """Sum of all elements up to each one along `axis`.

    Args:
        exclusive: leave the element itself out.
        reverse: sum from the end.

    Source:
        ONNX CumSum-14.
    """
    return _running(np.cumsum, x, axis, 0, exclusive, reverse)


@op(onnx=Standard("CumProd", 26))
def cumulative_product(
    x: Annotated[Array, "*shape", N],
    axis: Annotated[Array, "...", INDEX],
    *,
    exclusive: int = 0,
    reverse: int = 0,
) -> Annotated[Array, "*shape", N]:
    """Product of all elements up to each one; see `cumulative_sum`. Source: ONNX CumProd-26."""
    return _running(np.cumprod, x, axis, 1, exclusive, reverse)


@op(onnx=Standard("Hardmax", 13))
def hardmax(x: Annotated[Array, "...", F], *, axis: int = -1) -> Annotated[Array, "...", F]:
    """1 at the first largest element along `axis`, 0 elsewhere. Source: ONNX Hardmax-13."""
    v = np.asarray(x)
    at = axis_of(axis, v.ndim)
    out = np.zeros_like(v)
    np.put_along_axis(out, np.expand_dims(np.argmax(v, axis=at), at), 1, axis=at)
    return out


hardmax.shapes(same_type)
