"""Cases of matrix products with weights, of tables and of rotations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from perfxlm_core.conformance.arrays import plain, precise
from perfxlm_core.conformance.case import Case
from perfxlm_core.conformance.draws import (
    HEAD_DIMS,
    LARGE,
    LARGE_HEADS,
    LENGTHS,
    MOST_PRODUCTS,
    MOST_WEIGHTS,
    Draws,
)
from perfxlm_core.conformance.family import Arrays, Family
from perfxlm_core.conformance.values import FINITE, constant, generator
from perfxlm_core.ops.formats import FORMATS
from perfxlm_core.ops.spec import Op, Param

BLOCKS_OF_FORMAT = (1, 2, 3, 5)
FAR = 2**17
"""Context of the longest models: positions reach up to it."""


class Linear(Family):
    """Weights in whole blocks; 8-bit activations where `exact=False` allows them."""

    def length(self, at: Draws, word: str, others: Mapping[str, Any]) -> int:
        """Rows of quantized weights are whole blocks; large matrices have so many elements."""
        known = FORMATS.get(at.variant.format or "")
        block = known.block_size if known is not None else 1
        if word in ("in_features", "hidden"):
            if at.large:
                return self._fitting(at, word, block, others)
            return block * at.one_of(BLOCKS_OF_FORMAT) if block > 1 else at.length(word)
        return at.length(word, LENGTHS)

    def _fitting(self, at: Draws, word: str, block: int, others: Mapping[str, Any]) -> int:
        rows = max(others.values(), key=lambda n: n if isinstance(n, int) else 0, default=1)
        most = MOST_WEIGHTS // rows if isinstance(rows, int) else LARGE[word][-1]
        usual = [n - n % block for n in LARGE[word] if n <= most]
        return at.one_of(usual or [max(1, most // block) * block])

    def sizes(self, at: Draws) -> dict[str, Any]:
        """The product of both lengths is bounded where they are large."""
        found = super().sizes(at)
        if at.large and "out_features" in found:
            most = MOST_WEIGHTS // found["in_features"]
            found["out_features"] = min(found["out_features"], most)
        return found

    def step(self, at: Draws, sizes: Mapping[str, Any]) -> dict[str, Any]:
        """Fewer rows by large matrices."""
        made = super().step(at, sizes)
        if at.large and "out_features" in sizes:
            most = max(1, MOST_PRODUCTS // (sizes["in_features"] * sizes["out_features"]))
            made["tokens"] = min(made["tokens"], most)
        return made

    def _rounds(self, case: Case) -> bool:
        return case.format in FORMATS and not case.attrs.get("exact", True)

    def tolerance(self, op: Op[..., Any], case: Case) -> float:
        """Two percent where activations may be rounded to 8 bits."""
        return 0.02 if self._rounds(case) else super().tolerance(op, case)

    def disturbed(self, case: Case, arrays: Arrays, rng: np.random.Generator) -> Arrays:
        """Activations half a step of 8 bits away, where they may be rounded so."""
        made = super().disturbed(case, arrays, rng)
        if self._rounds(case):
            x = precise(arrays["x"])
            runs = np.abs(x.reshape(*x.shape[:-1], x.shape[-1] // 32, 32)).max(
                axis=-1, keepdims=True
            )
            half = np.broadcast_to(runs / 254, (*runs.shape[:-1], 32)).reshape(x.shape)
            made["x"] = x + half * rng.uniform(-1, 1, x.shape)
        return made


class Embedding(Linear):
    """Ids anywhere in the table, its first and last row among them."""

    kinds = (*FINITE, "denormal")

    def attribute(self, at: Draws, name: str) -> Any:  # noqa: ANN401
        """The dtype is that of the activations."""
        return at.variant.dtype if name == "dtype" else super().attribute(at, name)

    def reference(self, op: Op[..., Any], case: Case, arrays: Arrays) -> tuple[np.ndarray, ...]:
        """Only the rows asked for are decoded."""
        given = {k: v if k == "table" else plain(v) for k, v in arrays.items()}
        return (op.fn(**given, **self.full_attributes(op, case, exact=False)),)

    def disturbed(self, case: Case, arrays: Arrays, rng: np.random.Generator) -> Arrays:
        """Nothing is computed."""
        return arrays


class DecodeBlocks(Linear):
    """The numbers of a matrix, computed by nobody else."""

    kinds = (*FINITE, "denormal")

    def params(self, op: Op[..., Any]) -> tuple[Param, ...]:
        """A matrix."""
        return tuple(replace(p, dims=("out_features", "hidden")) for p in op.params)

    def environment(self, op: Op[..., Any], case: Case, index: int | None) -> dict[str, Any]:
        """Its shape as the definition's word."""
        env = super().environment(op, case, index)
        return {**env, "shape": (env["out_features"], env["hidden"])}


class TakeRows(Family):
    """Any dtype, bit for bit."""

    exact = True

    def step(self, at: Draws, sizes: Mapping[str, Any]) -> dict[str, Any]:
        """At least one row to take from."""
        made = super().step(at, sizes)
        return {**made, "rows_in": max(1, made["rows_in"])}


class RotaryTable(Family):
    """Positions from 0 to far beyond any context."""

    kinds = ("normal",)

    def array(
        self,
        param: Param,
        case: Case,
        env: Mapping[str, Any],
        rng: np.random.Generator,
        fixed: bool,
    ) -> Any:  # noqa: ANN401
        """Frequencies fall from 1, so that angles stay below 1e6."""
        if param.name != "inverse_frequencies":
            return super().array(param, case, env, rng, fixed)
        made = np.power(1e4, -rng.random(env["half"])).astype(np.float32)
        made[0] = 1
        return constant(param.name, made) if fixed else made

    def indices(
        self,
        name: str,
        shape: tuple[int, ...],
        env: Mapping[str, Any],
        rng: np.random.Generator,
    ) -> np.ndarray:
        """Small, large, in between, and around the ends of contexts."""
        some = rng.integers(0, 10 ** rng.integers(1, 7, shape))
        ends = 2 ** rng.integers(9, 18, shape) + rng.integers(-1, 1, shape)
        return np.where(rng.random(shape) < 0.2, np.minimum(ends, FAR), some).astype(np.int32)

    def reference(self, op: Op[..., Any], case: Case, arrays: Arrays) -> tuple[np.ndarray, ...]:
        """Sines and cosines in float64 of the float32 angle, which the definition asks for."""
        inverse = plain(arrays["inverse_frequencies"])
        angles = (arrays["positions"][:, None].astype(np.float32) * inverse).astype(np.float64)
        factor = self.full_attributes(op, case)["attention_factor"]
        return factor * np.cos(angles), factor * np.sin(angles)

    def tolerance(self, op: Op[..., Any], case: Case) -> float:
        """Rounding of the product with the factor."""
        return 2.0**-23

    def floor(self, op: Op[..., Any], case: Case, arrays: Arrays) -> float:
        """2e-7, times the factor."""
        return 2e-7 * float(case.attrs.get("attention_factor", 1.0))

    def disturbed(self, case: Case, arrays: Arrays, rng: np.random.Generator) -> Arrays:
        """Nothing: the angle is defined to the last bit."""
        return arrays


class Rotary(Family):
    """Whole and partial rotations by angles of the unit circle."""

    def sizes(self, at: Draws) -> dict[str, Any]:
        """Half of the rotated elements is at most half a head."""
        if at.large:
            dim = at.length("head_dim")
            return {
                "heads": at.one_of(LARGE_HEADS)[0],
                "head_dim": dim,
                "half": dim // at.one_of([2, 2, 4, 8]),
            }
        dim = at.one_of([d for d in HEAD_DIMS if d > 1])
        some = [h for h in (1, 2, 3, 4, 8, 16, 24) if h <= dim // 2]
        half = dim // 2 if at.flag() else at.one_of(some)
        return {"heads": at.one_of([1, 2, 3, 9]), "head_dim": dim, "half": half}

    def arrays(self, op: Op[..., Any], case: Case, index: int) -> Arrays:
        """Cosine and sine of the same angle."""
        made = super().arrays(op, case, index)
        angles = generator(case.seed, "angles", index).uniform(-7, 7, made["cos"].shape)
        dtype = made["cos"].dtype
        return {**made, "cos": np.cos(angles).astype(dtype), "sin": np.sin(angles).astype(dtype)}

    def reference(self, op: Op[..., Any], case: Case, arrays: Arrays) -> tuple[np.ndarray, ...]:
        """Each element by itself: NaN opens no other of its row."""
        given = {k: precise(v) for k, v in arrays.items()}
        return (op.fn(**given, **self.full_attributes(op, case)),)
