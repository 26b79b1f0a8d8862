"""Views: operators that move no bytes."""

from typing import Annotated, Any

import numpy as np

from perfxlm_core.ops.spec import TensorType, op
from perfxlm_core.ops.types import ANY, Array, Dim


@op()
def reshape(
    x: Annotated[Array, "...", ANY], *, shape: tuple[int, ...]
) -> Annotated[Array, "...", ANY]:
    """The same elements in row-major order; a plan gives it no time and no memory.

    Args:
        shape: lengths; at most one -1, which takes what is left.

    Raises:
        OperatorError: the number of elements differs.

    Source:
        ONNX Reshape-13.
    """
    return np.asarray(x).reshape(shape)


def _count(shape: Any) -> Any:  # noqa: ANN401
    total: Any = 1
    for length in shape:
        total = length * total if isinstance(length, Dim) else total * length
    return total


@reshape.shapes
def _(x: TensorType, *, shape: tuple[int, ...]) -> tuple[TensorType, ...]:
    if x.shape is None:
        return (TensorType(None, x.dtype),)
    have = _count(x.shape)
    known = _count(d for d in shape if not (isinstance(d, int) and d == -1))
    if -1 not in shape:
        if have != known:
            raise ValueError(f"reshape: {x.shape} has {have} elements, {shape} has {known}")
        return (TensorType(tuple(shape), x.dtype),)
    rest = have // known
    return (TensorType(tuple(rest if d == -1 else d for d in shape), x.dtype),)
