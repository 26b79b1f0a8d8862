"""Shapes of tensors that fit together, and numbers that operators over them need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from perfxlm_core.conformance.case import Case
from perfxlm_core.conformance.draws import LENGTHS, Draws
from perfxlm_core.conformance.tensor import Facts, Numbers, Shapes
from perfxlm_core.conformance.values import floats, integers

FEW = (1, 2, 3, 4, 5, 7, 8, 9)
"""Lengths of tensors of more than two dimensions."""
LARGE_AXES = (64, 576, 1024, 4096)
"""Lengths of the last dimension of large tensors."""

Shape = tuple[int, ...]


def shape(at: Draws, low: int = 0, high: int = 4, *, empty: bool = False) -> Shape:
    """A shape of `low` to `high` dimensions, some all alike; with `empty`, some of length 0."""
    rank = at.number(low, high)
    lengths = [at.one_of(LENGTHS if rank < 3 else FEW) for _ in range(rank)]
    if rank and at.one_of([False] * 3 + [True]):
        lengths = lengths[:1] * rank
    if at.large and rank:
        lengths[-1] = at.one_of(LARGE_AXES)
    if empty and rank and at.one_of([False] * 7 + [True]):
        lengths[at.number(0, rank - 1)] = 0
    return tuple(lengths)


def axis(at: Draws, rank: int) -> int:
    """An axis, counted from either end."""
    return at.number(-rank, rank - 1)


def several_axes(at: Draws, rank: int) -> list[int]:
    """Different axes in any order."""
    count = at.number(1, rank)
    chosen = at.draw(_permutation(rank))[:count]
    return [a - rank if at.flag() else a for a in chosen]


def _permutation(rank: int) -> Any:  # noqa: ANN401 - a strategy
    from hypothesis import strategies as st

    return st.permutations(range(rank))


def permutation(at: Draws, rank: int) -> tuple[int, ...]:
    """All axes in any order."""
    return tuple(at.draw(_permutation(rank)))


def narrowed(at: Draws, full: Shape) -> Shape:
    """A shape that broadcasts to `full`: the same, without leading axes, or with ones."""
    drop = at.number(0, len(full)) if at.flag() else 0
    ones = at.flag()
    return tuple(1 if ones and at.flag() else n for n in full[drop:])


def one(*, low: int = 0, empty: bool = True, **attrs: Sequence[Any]) -> Shapes:
    """One input, `x`."""

    def draw(at: Draws) -> Facts:
        return {"x": shape(at, low, empty=empty)}, {n: at.one_of(v) for n, v in attrs.items()}

    return draw


def alike(*names: str, **attrs: Sequence[Any]) -> Shapes:
    """Inputs of the same shape."""

    def draw(at: Draws) -> Facts:
        same = shape(at, empty=True)
        return dict.fromkeys(names, same), {n: at.one_of(v) for n, v in attrs.items()}

    return draw


def broadcast(*names: str, **attrs: Sequence[Any]) -> Shapes:
    """Inputs that broadcast together, in either direction."""

    def draw(at: Draws) -> Facts:
        full = shape(at, empty=True)
        sizes = {n: narrowed(at, full) for n in names}
        if at.flag():
            sizes[at.one_of(names)] = full
        return dict(sizes), {n: at.one_of(v) for n, v in attrs.items()}

    return draw


def several(at: Draws) -> Facts:
    """One to three inputs that broadcast together."""
    full = shape(at, empty=True)
    return {"inputs": tuple(narrowed(at, full) for _ in range(at.number(1, 3)))}, {}


def along(*, default: int = -1, **attrs: Sequence[Any]) -> Shapes:
    """One input and an axis that is not empty."""

    def draw(at: Draws) -> Facts:
        made = shape(at, 1)
        found: dict[str, Any] = {n: at.one_of(v) for n, v in attrs.items()}
        return {"x": made}, {"axis": axis(at, len(made)), **found}

    return draw


# Numbers


def few(case: Case, rng: np.random.Generator, shape: Shape, dtype: str) -> np.ndarray:
    """Small whole numbers, so that many are equal; NaN and infinities where the kind has them."""
    if dtype == "bool":
        return integers(rng, shape, dtype, wide=False)
    low = 0 if dtype.startswith("u") else -2
    made = rng.integers(low, 3, shape)
    if "float" not in dtype or case.values not in ("infinite", "nan"):
        return made
    odd = rng.choice([np.inf, -np.inf, *([np.nan] * 3 * (case.values == "nan"))], shape)
    return np.where(rng.random(shape) < 0.4, odd, made)


def not_zero(case: Case, rng: np.random.Generator, shape: Shape, dtype: str) -> np.ndarray:
    """Small numbers of both signs; floats in quarters."""
    made = rng.integers(1, 10, shape)
    if not dtype.startswith("u"):
        made = made * rng.choice([-1, 1], shape)
    return made / 4 if "float" in dtype else made


def quarters(case: Case, rng: np.random.Generator, shape: Shape, dtype: str) -> np.ndarray:
    """Small numbers, 0 among them; floats in quarters."""
    made = rng.integers(0 if dtype.startswith("u") else -40, 41, shape)
    return made / 4 if "float" in dtype else made


def positive(case: Case, rng: np.random.Generator, shape: Shape, dtype: str) -> np.ndarray:
    """Numbers in [0.25, 4]."""
    return rng.uniform(0.25, 4, shape)


def between(low: float, high: float) -> Numbers:
    """Numbers in an interval, whole ones for integers, the ends among them."""

    def make(case: Case, rng: np.random.Generator, shape: Shape, dtype: str) -> np.ndarray:
        if "float" not in dtype:
            return rng.integers(int(low), int(high), shape, endpoint=True)
        made = rng.uniform(low, high, shape)
        return np.where(rng.random(shape) < 0.05, rng.choice([low, high], shape), made)

    return make


def above(low: float) -> Numbers:
    """Magnitudes of the case's kind, from `low` on."""

    def make(case: Case, rng: np.random.Generator, shape: Shape, dtype: str) -> np.ndarray:
        return low + np.abs(floats(rng, shape, dtype, case.values).astype(np.float64))

    return make


def positions(length: Callable[[Case], int], *, negative: bool = True) -> Numbers:
    """Positions in an axis, from either end."""

    def make(case: Case, rng: np.random.Generator, shape: Shape, dtype: str) -> np.ndarray:
        most = length(case)
        made = rng.integers(-most if negative else 0, most, shape)
        if made.size:
            made.reshape(-1)[:1] = most - 1
        return made

    return make


def elements(shape: Shape) -> int:
    """How many elements a shape has."""
    return prod(shape)
