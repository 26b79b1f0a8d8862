"""What a case is drawn from: hypothesis's choices, and the lengths to choose from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

from hypothesis import strategies as st

from perfxlm_core.conformance.case import Case, Variant
from perfxlm_core.ops.spec import Op

X = TypeVar("X")

LENGTHS = (1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65, 100, 127, 129)
"""What breaks tiles and vectors: around powers of two, and none of them."""
LONG = (1000,)
"""Long enough for sums to lose digits."""
STEP_LENGTHS = (0, 1, 2, 3, 4, 7, 8, 15, 16, 17, 31, 33, 65)
"""Lengths of symbolic dimensions."""
HEAD_DIMS = (1, 2, 3, 7, 8, 16, 17, 31, 32, 64, 65, 128)
"""Lengths of heads."""

LARGE: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {
        "hidden": (576, 768, 896, 1024, 2048, 2560, 3072, 4096, 5120, 8192),
        "in_features": (576, 1536, 2048, 4096, 4864, 8192, 14336),
        "out_features": (192, 576, 1024, 1536, 4096, 6144, 14336),
        "vocab": (32000, 49152, 50257, 128256, 151936),
        "head_dim": (64, 80, 96, 128, 256),
        "half": (32, 40, 48, 64, 128),
        "": (576, 1536, 4096, 4864, 8192, 14336),
    }
)
"""Lengths of the dimensions of real models; those under no name are for all others."""
LARGE_STEPS = (1, 2, 7, 64, 300)
"""Tokens and rows of a step of a real model."""
LARGE_HEADS = ((9, 3), (8, 8), (14, 2), (16, 8), (28, 4), (32, 8), (32, 32))
"""Query heads and key heads of real models."""
MOST_WEIGHTS = 3 << 22
"""Elements of a matrix at most: with its float64 copies, it stays below 1 GiB."""
MOST_PRODUCTS = 1 << 27
"""Products of numbers in a step at most, or one row."""


@dataclass(frozen=True)
class Draws:
    """A case being drawn.

    Attributes:
        draw: hypothesis's.
        op: the operator.
        variant: its types.
        large: whether the sizes are those of real models.
        like: a case whose attributes and optional inputs this one has as well; None draws them.
    """

    draw: st.DrawFn
    op: Op[..., Any]
    variant: Variant
    large: bool = False
    like: Case | None = None

    def one_of(self, choices: Sequence[X]) -> X:
        """One of the choices; the first is the simplest."""
        return self.draw(st.sampled_from(choices))

    def number(self, low: int, high: int) -> int:
        """A whole number, both ends possible."""
        return self.draw(st.integers(low, high))

    def flag(self) -> bool:
        """True or false."""
        return self.draw(st.booleans())

    def length(self, word: str, small: Sequence[int] = LENGTHS + LONG) -> int:
        """A length of the dimension called `word`: of a real model, or one of `small`."""
        return self.one_of(LARGE.get(word, LARGE[""]) if self.large else small)
