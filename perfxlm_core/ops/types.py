"""What annotations of operators are made of: arrays, dtype variables, and symbolic dimensions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@runtime_checkable
class Array(Protocol):
    """What operators take: a concrete array when they compute, a graph's value when they build.

    Recipes use nothing beyond this protocol, so that the same page can be run on arrays.
    """

    @property
    def shape(self) -> tuple[Any, ...]:
        """Length of each dimension."""
        ...

    @property
    def dtype(self) -> Any:  # noqa: ANN401 - numpy dtype or our dtype name
        """Type of the elements."""
        ...

    @property
    def reshape(self) -> Callable[..., Any]:
        """The same elements in row-major order under another shape."""
        ...

    def __add__(self, other: Any, /) -> Any: ...  # noqa: ANN401
    def __mul__(self, other: Any, /) -> Any: ...  # noqa: ANN401


_EXTENSION_DTYPES = frozenset(
    "bfloat16 float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu "
    "float4_e2m1fn int4 uint4 int2 uint2 float6_e2m3fn float6_e3m2fn".split()
)


@cache
def numpy_dtype(name: str) -> np.dtype[Any]:
    """The NumPy dtype called `name`; bfloat16 and the small floats come from ml_dtypes.

    Raises:
        TypeError: no such dtype.
    """
    if name in _EXTENSION_DTYPES:
        import ml_dtypes  # only models that use such a type pay for the import

        return np.dtype(getattr(ml_dtypes, name))
    return np.dtype(name)


def dtype_name(dtype: Any) -> str:  # noqa: ANN401 - whatever numpy accepts
    """Our name of a dtype: `numpy_dtype(dtype_name(d)) == d`."""
    return dtype if isinstance(dtype, str) else np.dtype(dtype).name


def itemsize(name: str) -> int:
    """Bytes of one element of the dtype called `name`."""
    return numpy_dtype(name).itemsize


@dataclass(frozen=True)
class DTypes:
    """A dtype variable of an operator: parameters that share one share a dtype.

    `any_format` marks weights, whose elements may also be a quantized format.
    """

    name: str
    allowed: tuple[str, ...]
    any_format: bool = False

    def accepts(self, dtype: str) -> bool:
        """Whether an argument of this dtype (or format) is within the definition."""
        return self.any_format or not self.allowed or dtype in self.allowed


FLOATS = ("float64", "float32", "float16", "bfloat16")
T = DTypes("T", FLOATS)
"""The activation type."""
C = DTypes("C", FLOATS)
"""The type that the KV cache stores."""
W = DTypes("W", FLOATS, any_format=True)
"""A weight in any format, quantized ones included."""
F32 = DTypes("F32", ("float32", "float64"))
"""Tables that are always kept in float32 (float64 in the reference)."""
I8 = DTypes("I8", ("int8",))
"""Codes of a cache that is kept in 8 bits."""
I32 = DTypes("I32", ("int32",))
"""Indices, positions and lengths."""
ANY = DTypes("ANY", ())
"""Anything."""


@dataclass(frozen=True)
class Dim:
    """A dimension known only at each step: a sum of symbols times integers, plus an integer.

    >>> tokens = Dim.symbol("tokens")
    >>> str(tokens * 2 + 1)
    '2*tokens+1'
    """

    terms: tuple[tuple[str, int], ...]
    offset: int = 0

    @staticmethod
    def symbol(name: str) -> Dim:
        """The dimension called `name`."""
        return Dim(((name, 1),))

    @staticmethod
    def _make(terms: Mapping[str, int], offset: int) -> Dim | int:
        kept = tuple(sorted((n, c) for n, c in terms.items() if c))
        return Dim(kept, offset) if kept else offset

    def __add__(self, other: Dim | int) -> Dim | int:
        if not isinstance(other, Dim):
            return Dim(self.terms, self.offset + int(other))
        terms = dict(self.terms)
        for name, count in other.terms:
            terms[name] = terms.get(name, 0) + count
        return Dim._make(terms, self.offset + other.offset)

    __radd__ = __add__

    def __mul__(self, factor: int) -> Dim | int:
        if not isinstance(factor, int | np.integer):
            return NotImplemented
        k = int(factor)
        return Dim._make({n: c * k for n, c in self.terms}, self.offset * k)

    __rmul__ = __mul__

    def __sub__(self, other: Dim | int) -> Dim | int:
        return self + other * -1

    def __floordiv__(self, divisor: int) -> Dim | int:
        if any(c % divisor for _, c in self.terms) or self.offset % divisor:
            raise ValueError(f"{self} is not a multiple of {divisor}")
        return Dim._make({n: c // divisor for n, c in self.terms}, self.offset // divisor)

    def value(self, sizes: Mapping[str, int]) -> int:
        """The length under concrete sizes of the symbols."""
        return sum(sizes[n] * c for n, c in self.terms) + self.offset

    def __str__(self) -> str:
        parts = [n if c == 1 else f"{c}*{n}" for n, c in self.terms]
        return "+".join([*parts, *([str(self.offset)] if self.offset else [])])

    __repr__ = __str__


Shape = tuple["int | Dim", ...]


def concrete(shape: Shape, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """`shape` with every symbol replaced by its size."""
    return tuple(d.value(sizes) if isinstance(d, Dim) else d for d in shape)
