"""Cases of what follows the logits: the best tokens, probabilities, and draws."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from perfxlm_core.conformance.arrays import precise
from perfxlm_core.conformance.case import Case
from perfxlm_core.conformance.draws import Draws
from perfxlm_core.conformance.family import Arrays, Family
from perfxlm_core.conformance.rows import Batch, picked_batches
from perfxlm_core.conformance.values import FINITE, generator
from perfxlm_core.ops.spec import Op, Param

MARGIN = 1e-3
"""How far, in probability, random numbers and limits stay from where the token changes."""


class Logits(Family):
    """Rows of logits; every second case has many equal ones."""

    kinds: tuple[str, ...] = (*FINITE, "denormal")

    def arrays(self, op: Op[..., Any], case: Case, index: int) -> Arrays:
        """Equal logits are whole numbers."""
        made = super().arrays(op, case, index)
        if case.seed % 2:
            logits = made["logits"]
            made["logits"] = np.rint(logits.astype(np.float32)).astype(logits.dtype)
        return made

    def step(self, at: Draws, sizes: Mapping[str, Any]) -> dict[str, Any]:
        """Few rows where they are long."""
        made = super().step(at, sizes)
        return {n: min(v, 16) for n, v in made.items()} if at.large else made


class LogProbabilities(Logits):
    """Some tokens are impossible: their logits are minus infinity, never those of a whole row."""

    kinds: tuple[str, ...] = (*FINITE, "denormal", "masked")

    def arrays(self, op: Op[..., Any], case: Case, index: int) -> Arrays:
        """The token asked for may be one of them."""
        made = super().arrays(op, case, index)
        return {**made, "logits": masked(made["logits"], case, index)}


class Greedy(Logits):
    """One right answer, equal logits or not."""

    exact = True
    kinds: tuple[str, ...] = (*FINITE, "denormal", "masked", "infinite")

    def arrays(self, op: Op[..., Any], case: Case, index: int) -> Arrays:
        """Whole rows may be minus infinity but for one."""
        made = super().arrays(op, case, index)
        return {**made, "logits": masked(made["logits"], case, index)}


class Sampling(Logits):
    """The token is certain: random numbers and limits stay clear of where rounding decides.

    Where probabilities are exact in any order of computing (a power of two of equal logits, all
    others far below), they stand exactly on the border, which the definition decides.
    """

    exact = True
    kinds: tuple[str, ...] = (*FINITE, "denormal", "masked")

    def arrays(self, op: Op[..., Any], case: Case, index: int) -> Arrays:
        """Row by row, so that limits fit the probabilities."""
        made = super().arrays(op, case, index)
        logits = masked(made["logits"], case, index)
        rng = generator(case.seed, "draws", index)
        rows, vocab = logits.shape
        heat = rng.choice([0.0, 0.1, 0.5, 0.7, 1.0, 1.0, 2.0, 10.0], rows).astype(np.float32)
        most = rng.choice([-1, 0, 0, 1, 2, 3, 5, 40, vocab, vocab + 1], rows).astype(np.int32)
        top_ps, uniforms = np.empty(rows, np.float32), np.empty(rows, np.float32)
        for row in range(rows):
            if rng.random() < 0.25:
                heat[row], most[row] = 1.0, rng.choice([-1, 0, vocab])
                logits[row], top_ps[row], uniforms[row] = _borders(rng, vocab)
                continue
            _peak(logits[row], float(heat[row]))
            ranked = np.sort(precise(logits[row]))[::-1][: most[row] if most[row] > 0 else None]
            top_ps[row], uniforms[row] = _clear(rng, ranked, float(heat[row]))
        return {
            "logits": logits,
            "temperatures": heat,
            "top_ks": most,
            "top_ps": top_ps,
            "uniforms": uniforms,
        }

    def is_constant(self, param: Param, case: Case) -> bool:
        """Everything changes with every step."""
        return False


def _borders(rng: np.random.Generator, vocab: int) -> tuple[np.ndarray, float, float]:
    """Equal logits among others far below; the limit and the number exactly on a border."""
    count = 2 ** int(rng.integers(0, int(np.log2(vocab)) + 1))
    row = np.full(vocab, -1000.0)
    row[rng.permutation(vocab)[:count]] = 2.0
    kept = int(rng.integers(1, count + 1))
    return row, kept / count, float(rng.integers(0, kept)) / kept if kept & (kept - 1) == 0 else 0.0


def _peak(row: np.ndarray, heat: float) -> None:
    """Raise the largest logit where no token has a probability worth mentioning."""
    v = precise(row)
    total = np.exp((v - v.max()) / max(heat, 0.1)).sum()
    if total > 0.05 / MARGIN:
        row[v.argmax()] += row.dtype.type(max(heat, 0.1) * np.log(total))


def _clear(rng: np.random.Generator, ranked: np.ndarray, heat: float) -> tuple[float, float]:
    """A limit on probability and a number, both well inside of what one token takes."""
    if heat == 0:
        return float(rng.uniform(0.1, 1)), float(rng.random(dtype=np.float32))
    weights = np.exp((ranked - ranked.max()) / heat)
    running = np.cumsum(weights) / weights.sum()
    kept, top_p = _inside(rng, running) if rng.random() < 0.7 else (len(running), 1.0)
    return top_p, _inside(rng, running[:kept] / running[kept - 1])[1]


def _inside(rng: np.random.Generator, running: np.ndarray) -> tuple[int, float]:
    """How many tokens reach a probability that only the last of them reaches, and that."""
    before = np.concatenate([[0.0], running[:-1]])
    wide = np.flatnonzero(running - before > 2 * MARGIN)
    at = int(rng.choice(wide)) if wide.size else int(np.argmax(running - before))
    share = rng.uniform(0.4, 0.6)
    return at + 1, float(before[at] + share * (running[at] - before[at]))


def masked(logits: np.ndarray, case: Case, index: int) -> np.ndarray:
    """For kind "masked": minus infinity in most of each row, never in all of it."""
    if case.values != "masked" or not logits.size:
        return logits
    rng = generator(case.seed, "mask", index)
    hide = rng.random(logits.shape) < rng.choice([0.1, 0.9, 1.0], (len(logits), 1))
    hide[np.arange(len(hide)), rng.integers(0, hide.shape[1], len(hide))] = False
    return np.where(hide, logits.dtype.type(-np.inf), logits)


class Softmax(Family):
    """Rows of any length; the definition leaves the shape open, so the cases choose it.

    A row may hold minus infinities (masks), which give 0.
    """

    def params(self, op: Op[..., Any]) -> tuple[Param, ...]:
        """As for `*batch hidden`."""
        return tuple(replace(p, dims=("*batch", "hidden")) for p in op.params)

    def attribute(self, at: Draws, name: str) -> Any:  # noqa: ANN401
        """The last axis, or the one before."""
        return at.one_of([-1, -1, -2]) if name == "axis" else super().attribute(at, name)

    def lengths(self, case: Case, index: int) -> dict[str, int]:
        """At least one row, so that the axis before the last is not empty."""
        return {n: max(1, v) for n, v in case.steps[index].items()}

    def reference(self, op: Op[..., Any], case: Case, arrays: Arrays) -> tuple[np.ndarray, ...]:
        """Rows along the axis by themselves."""
        return (op.fn(precise(arrays["x"]), **self.full_attributes(op, case)),)

    def open_shape(self, param: Param, env: Mapping[str, Any]) -> tuple[Any, ...] | None:
        """As for `*batch hidden`."""
        return (*env["batch"], env["hidden"])

    def batches(
        self,
        op: Op[..., Any],
        case: Case,
        arrays: Arrays,
        largest: Mapping[str, int],
        rng: np.random.Generator,
    ) -> Iterable[Batch]:
        """Rows, unless the axis is the one that counts them."""
        if case.attrs["axis"] == -2 and arrays["x"].ndim == 2:
            return ()
        return picked_batches(["x"], "tokens", arrays, largest, rng)
