"""What a graph should give: every node in float64, and how much of it rounding may change.

How far errors inside a graph may reach is measured, not guessed: the same steps are run again with
every node's result off by as much as its operator allows a kernel, at random. What that moves, a
device may be off by as well, times `SLACK`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from perfxlm_core import ops
from perfxlm_core.conformance.plans.batches import Batch
from perfxlm_core.conformance.values import generator
from perfxlm_core.graph.ir import Graph, Node, Value
from perfxlm_core.ops.formats import Tensor
from perfxlm_core.ops.types import concrete, numpy_dtype

Arrays = dict[str, npt.NDArray[Any]]
SLACK = 8.0
"""How many times further than the draws' largest effect a device may be off."""
DRAWS = 3
"""How often errors are drawn."""
LONG = 64
"""Tokens from which on a step is drawn once: its rows are long and many, and float64 is slow."""
ROUNDED = 0.02
"""Error of a linear layer that may round activations (see `ops.linear`)."""
CANCELLED = 2.0**-5
"""Share of an operator's error that is relative to its inputs rather than its result."""
_EXACT = (ops.reshape, ops.take_rows)
_EPS = {"float16": 2.0**-11, "bfloat16": 2.0**-8}


@dataclass(frozen=True)
class Expected:
    """Every value of every step.

    Attributes:
        values: for each step, value's name -> float64 array (integers as they are).
        allowed: for each step, value's name -> error allowed each row, `[..., 1]`.
    """

    values: list[Arrays]
    allowed: list[Arrays]

    def excess(self, step: int, name: str, got: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Errors of a value in units of what is allowed; infinite where it is not a number.

        Args:
            step: index of the step.
            name: the value's.
            got: what it is; of a lower precision than the graph's where it lies in a cache.
        """
        want = self.values[step][name]
        value = got.astype(np.float64)
        rounding = _EPS.get(got.dtype.name, 0.0) * np.abs(want) + _smallest(got.dtype.name)
        with np.errstate(all="ignore"):
            units = np.abs(value - want) / (self.allowed[step][name] + rounding)
        same = (value == want) | (np.isnan(value) & np.isnan(want))
        return np.where(same, 0.0, np.where(np.isfinite(units), units, np.inf))

    def wrong(self, step: int, name: str, got: npt.NDArray[Any]) -> str | None:
        """What is wrong with a value: where, and by how much; None if nothing is."""
        units = self.excess(step, name, got)
        if not (units > 1).any():
            return None
        at = np.unravel_index(int(units.argmax()), units.shape)
        place, want = [int(i) for i in at], self.values[step][name]
        most = np.broadcast_to(self.allowed[step][name], units.shape)[at]
        return (
            f": at {place} it is {float(got[at]):.6g}, want {float(want[at]):.6g}, allowed "
            f"{float(most):.2g}; {int((units > 1).sum())} of {units.size} elements are off"
        )


def expect(graph: Graph, steps: Sequence[Batch], feeds: Sequence[Arrays], seed: int) -> Expected:
    """Run a graph's steps in float64, and again with errors.

    Args:
        graph: as it was before any device rewrote it.
        steps: sizes of each step.
        feeds: inputs of each step.
        seed: of the errors.
    """
    constants: dict[Value, npt.NDArray[Any]] = {}
    clean = _Run(graph, constants, None)
    values = [clean.step(b, f) for b, f in zip(steps, feeds, strict=True)]
    allowed = [{n: _direct(graph, n, v) for n, v in step.items()} for step in values]
    draws = DRAWS if all(b.sizes.get("tokens", 0) < LONG for b in steps) else 1
    for draw in range(draws):
        noisy = _Run(graph, constants, generator(seed, "errors", draw))
        for i, (batch, fed) in enumerate(zip(steps, feeds, strict=True)):
            for name, array in noisy.step(batch, fed).items():
                moved = SLACK * _row(array - values[i][name])
                allowed[i][name] = np.maximum(allowed[i][name], moved)
    return Expected(values, allowed)


def _direct(graph: Graph, name: str, value: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The least allowed: rounding to the graph's dtype."""
    return _row(value) * _EPS.get(graph.dtype, 2.0**-22)


def _row(v: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The largest finite magnitude of each row."""
    known = np.atleast_1d(np.where(np.isfinite(v), np.abs(v), 0).astype(np.float64))
    return np.asarray(known.max(axis=-1, keepdims=True, initial=0))


def _smallest(dtype: str) -> float:
    """What a dtype may flush to zero."""
    return float(np.finfo(same_range(dtype)).tiny)


def same_range(dtype: str) -> np.dtype[Any]:
    """The dtype, or NumPy's own of the same range: bfloat16 has float32's."""
    return np.dtype("float32" if dtype == "bfloat16" else dtype)


class _Run:
    """One run of a graph's steps, with caches of its own in float64."""

    def __init__(
        self,
        graph: Graph,
        constants: dict[Value, npt.NDArray[Any]],
        errors: np.random.Generator | None,
    ) -> None:
        self.graph, self.constants, self.errors = graph, constants, errors
        self.caches = {s: np.zeros(s.shape) for s in graph.states.values()}

    def step(self, batch: Batch, feeds: Mapping[str, npt.NDArray[Any]]) -> Arrays:
        """Every value of a step, by name."""
        known: dict[Value, Any] = dict(self.caches)
        for name, value in self.graph.inputs.items():
            known[value] = _precise(feeds[name])
        with np.errstate(all="ignore"):
            for node in self.graph.nodes:
                self._node(node, known, batch.sizes)
        return {v.name: a for v, a in known.items() if not v.state}

    def _node(self, node: Node, known: dict[Value, Any], sizes: Mapping[str, int]) -> None:
        inputs = {
            p.name: self._given(node.inputs.get(p.name), known, tables=p.dtype.name == "F32")
            for p in node.op.params
        }
        attrs = dict(node.attrs)
        if node.op is ops.reshape:
            shape = node.outputs[0].shape
            attrs["shape"] = concrete(shape, sizes)
        if "dtype" in attrs:
            attrs["dtype"] = "float64"
        if node.op is ops.store_kv and self.errors is not None:
            for name in ("k", "v"):
                inputs[name] = self._stored(inputs[name], node.inputs[f"{name}_cache"].dtype)
        out = node.op.fn(**inputs, **attrs)
        results = out if isinstance(out, tuple) else (out,)
        for value, array in zip(node.outputs, results, strict=False):
            made = _precise(np.asarray(array))
            known[value] = self._off(node, value, made, known)

    def _given(self, given: Any, known: Mapping[Value, Any], *, tables: bool) -> Any:  # noqa: ANN401
        if given is None:
            return None
        if isinstance(given, tuple):
            return [self._given(v, known, tables=tables) for v in given]
        if given.constant is None:
            return known[given]
        array = self._constant(given)
        return array.astype(np.float32) if tables else array

    def _constant(self, value: Value) -> npt.NDArray[Any]:
        if value not in self.constants:
            assert isinstance(value.constant, Tensor)
            tensor = value.constant
            plain = tensor.float32() if tensor.is_quantized else tensor.array()
            self.constants[value] = _precise(plain)
        return self.constants[value]

    def _stored(self, array: npt.NDArray[Any], dtype: str) -> npt.NDArray[Any]:
        """Keys or values with twice the rounding of their cache."""
        assert self.errors is not None
        return array * (1 + 2 * _EPS.get(dtype, 0.0) * self.errors.uniform(-1, 1, array.shape))

    def _off(
        self, node: Node, value: Value, made: npt.NDArray[Any], known: Mapping[Value, Any]
    ) -> npt.NDArray[Any]:
        """A node's result with an error as large as a kernel may make."""
        if self.errors is None or made.dtype.kind != "f" or node.op in _EXACT:
            return made
        tolerance = node.op.tolerance.get(value.dtype, 0.0)
        weight = node.inputs.get("weight")
        if node.op is ops.linear and not node.attrs["exact"] and isinstance(weight, Value):
            tolerance = ROUNDED
        most = max((_largest(known[v]) for _, v in node.arguments() if v in known), default=0.0)
        size = tolerance * (_row(made) + CANCELLED * most)
        return np.asarray(made + size * self.errors.uniform(-1, 1, made.shape))


def _largest(given: Any) -> float:  # noqa: ANN401
    """The largest magnitude of floats; NaN where one is."""
    if not isinstance(given, np.ndarray) or given.dtype.kind != "f":
        return 0.0
    return float(max(given.max(initial=0), -given.min(initial=0)))


def _precise(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Floats in float64; integers as they are."""
    if array.dtype.kind == "f" or array.dtype == numpy_dtype("bfloat16"):
        return array.astype(np.float64)
    return array
