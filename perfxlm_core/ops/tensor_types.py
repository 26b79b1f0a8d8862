"""Dtype variables and shape rules shared by the operators of imported graphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from perfxlm_core.ops.numerics import compute
from perfxlm_core.ops.spec import TensorType
from perfxlm_core.ops.types import FLOATS, DTypes, Shape

INTEGERS = ("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8")
SMALL_INTEGERS = ("int4", "uint4", "int2", "uint2")
SMALL_FLOATS = (
    "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu",
    "float4_e2m1fn", "float6_e2m3fn", "float6_e3m2fn",
)  # fmt: skip
ELEMENTS = (
    *FLOATS, *INTEGERS, *SMALL_INTEGERS, *SMALL_FLOATS, "bool", "complex64", "complex128",
)  # fmt: skip

E = DTypes("E", ELEMENTS)
"""Elements of any kind; parameters that share it share a dtype."""
E2 = DTypes("E2", ELEMENTS)
"""Elements of any kind, for a parameter whose dtype is its own."""
N = DTypes("N", (*FLOATS, *INTEGERS))
"""Numbers one can calculate with."""
N2 = DTypes("N2", (*FLOATS, *INTEGERS))
"""Numbers, for a parameter whose dtype is its own."""
F = DTypes("F", FLOATS)
"""Floating-point numbers."""
F2 = DTypes("F2", FLOATS)
"""Floating-point numbers, for a parameter whose dtype is its own."""
K = DTypes("K", INTEGERS)
"""Whole numbers."""
I64 = DTypes("I64", ("int64",))
"""Shapes, axes and counts."""
INDEX = DTypes("INDEX", ("int64", "int32"))
"""Positions within an axis."""
B = DTypes("B", ("bool",))
"""Truth values."""


def broadcast(*shapes: Shape | None) -> Shape | None:
    """The common shape under NumPy's rules; None where it cannot be told yet.

    Raises:
        ValueError: two lengths disagree.
    """
    known = [s for s in shapes if s is not None]
    if len(known) < len(shapes):
        return None
    rank = max((len(s) for s in known), default=0)
    out: list[Any] = []
    for axis in range(rank):
        lengths = [s[axis - rank + len(s)] for s in known if axis - rank + len(s) >= 0]
        distinct = list(dict.fromkeys(n for n in lengths if n != 1))
        if len(distinct) > 1:
            if all(isinstance(n, int) for n in distinct):
                raise ValueError(f"shapes {known} do not broadcast: lengths {distinct}")
            return None
        out.append(distinct[0] if distinct else 1)
    return tuple(out)


def same_type(x: TensorType, *_: TensorType | None, **__: Any) -> tuple[TensorType, ...]:  # noqa: ANN401
    """Inference of an operator whose output is like its first input."""
    return (x,)


def broadcast_type(
    dtype: str | None = None,
) -> Callable[..., tuple[TensorType, ...]]:
    """Inference of an elementwise operator of several inputs; `dtype` None is the first one's."""

    def infer(*types: TensorType, **_: Any) -> tuple[TensorType, ...]:  # noqa: ANN401
        shape = broadcast(*(t.shape for t in types))
        return (TensorType(shape, types[0].dtype if dtype is None else dtype),)

    return infer


def rounded(
    fn: Callable[..., np.ndarray[Any, Any]],
    *arrays: Any,  # noqa: ANN401
) -> np.ndarray[Any, Any]:
    """`fn` in float32 at least, its result rounded once to the dtype of the first array.

    Integers are calculated with as they are. Overflow and division by zero give what IEEE 754
    says, without a warning.
    """
    first = np.asarray(arrays[0])
    given = [
        compute(a) if first.dtype.kind in "fV" else np.asarray(a)  # V: bfloat16 and its kin
        for a in arrays
    ]
    with np.errstate(all="ignore"):
        return np.asarray(fn(*given)).astype(first.dtype, copy=False)


def axes_of(axes: Any, rank: int) -> tuple[int, ...]:  # noqa: ANN401
    """Axes given as an array or a sequence, as numbers in `[0, rank)`.

    Raises:
        ValueError: an axis is out of range, or given twice.
    """
    found = [int(a) for a in np.asarray(axes).reshape(-1)]
    if any(not -rank <= a < rank for a in found):
        raise ValueError(f"axes {found} are outside of a tensor of {rank} dimensions")
    normal = tuple(a % rank for a in found)
    if len(set(normal)) < len(normal):
        raise ValueError(f"axes {found} name a dimension twice")
    return normal


def axis_of(axis: int, rank: int) -> int:
    """One axis as a number in `[0, rank)`; raises ValueError when out of range."""
    return axes_of([axis], rank)[0]


def lengths_of(shape: Any) -> tuple[int, ...]:  # noqa: ANN401
    """A shape given as an array, as Python numbers.

    Raises:
        ValueError: a length is negative.
    """
    lengths: Sequence[int] = [int(n) for n in np.asarray(shape).reshape(-1)]
    if any(n < 0 for n in lengths):
        raise ValueError(f"shape {list(lengths)} has a negative length")
    return tuple(lengths)
