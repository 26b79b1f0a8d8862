"""One case on one kernel: everything that a right kernel must do, tried and compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from perfxlm_core.conformance.arrays import flat
from perfxlm_core.conformance.bench import Bench
from perfxlm_core.conformance.case import Case, Failure
from perfxlm_core.conformance.family import Family
from perfxlm_core.conformance.judge import first_difference, judge, results_of
from perfxlm_core.conformance.node import PATTERNS, POISONS, Node, refusal
from perfxlm_core.conformance.structured import family_of
from perfxlm_core.errors import PerfxlmError, PluginError
from perfxlm_core.ops.formats import FORMATS, Tensor
from perfxlm_core.ops.types import FLOATS
from perfxlm_core.registry.device import Device
from perfxlm_core.registry.kernels import Kernel

DOUBLED = 200
"""Lengths up to which a neighbour has twice the lengths."""


@dataclass(frozen=True)
class Outcome:
    """What became of a case that did not fail.

    Attributes:
        worst: largest error in units of what is allowed; 0 where the result is exact.
        declined: why the kernel does not take the case; None if it ran.
    """

    worst: float = 0.0
    declined: str | None = None


def run_case(device: Device, kernel: Kernel, case: Case, *, guard: bool = False) -> Outcome:
    """Try a kernel with a case.

    Args:
        device: where it runs.
        kernel: what is tried.
        case: what it is tried with.
        guard: in the layout "edge", forbid the pages beside operands, if they are memory of the
            host: a kernel that touches them takes this process with it.

    Raises:
        Failure: the kernel does something wrong; the message says what.
        PluginError: the kit has no strategy for the operator.
    """
    family = family_of(kernel.op)
    if family is None:
        raise PluginError(f"{kernel.op.name}: no strategy makes inputs for this operator")
    with (
        np.errstate(all="ignore"),
        Bench(device, case.layout, case.seed, guard) as bench,
    ):
        return _Trial(bench, kernel, family, case).run()


class _Trial:
    """A case being tried."""

    def __init__(self, bench: Bench, kernel: Kernel, family: Family, case: Case) -> None:
        self.bench, self.kernel, self.family, self.case = bench, kernel, family, case
        self.node = Node(bench, kernel, family, case)
        self.rng = np.random.default_rng(case.seed)

    def run(self) -> Outcome:
        self._refuses_what_is_not_named()
        reason = self.node.refusal()
        if reason is not None:
            return Outcome(declined=reason)
        self.node.bind()
        first, worst = self._interleaved()
        self._bound_elsewhere(first)
        self._same_memory_for_two_inputs()
        if self.kernel.promises_rows and not self.family.exact:
            self._rows_in_other_batches(first)
        return Outcome(worst)

    # Refusals

    def _refuses_what_is_not_named(self) -> None:
        """Types, kinds of device and computed operands that the declaration leaves out."""
        kernel, query = self.kernel, self.node.query
        strange = [replace(query, device_kind=f"not {kernel.device}")]
        if kernel.dtypes is not None and query.dtypes:
            strange += [
                replace(query, dtypes=frozenset({d})) for d in FLOATS if d not in kernel.dtypes
            ]
        if kernel.cache_dtypes is not None and query.cache_dtype is not None:
            strange += [
                replace(query, cache_dtype=d) for d in FLOATS if d not in kernel.cache_dtypes
            ]
        if query.formats:
            unknown = [f for f in FORMATS if f not in (kernel.formats or ())]
            strange += [replace(query, formats=frozenset({f})) for f in unknown]
        if kernel.constants:
            strange.append(replace(query, constants=frozenset()))
        for asked in strange:
            if refusal(kernel, asked) is None:
                raise Failure(
                    "refusals",
                    f"takes what it does not name: dtypes {sorted(asked.dtypes)}, formats "
                    f"{sorted(asked.formats)}, cache {asked.cache_dtype}, constants "
                    f"{sorted(asked.constants)} on {asked.device_kind}",
                )

    # Launches

    def _interleaved(self) -> tuple[list[list[np.ndarray]], float]:
        """Every step twice, in turns with a neighbour; gives the results and the worst error."""
        node, neighbour = self.node, self._neighbour()
        order = range(len(self.case.steps))
        first, beside = [], None
        for i in order:
            first.append(node.step(i))
            if neighbour is not None and beside is None:
                beside = neighbour.step(0)
        for i in reversed(order):
            again = node.step(i, PATTERNS[1], POISONS[1])
            self._same(node, first[i], again, i, f"step {i}")
            if i == order[-1] and neighbour is not None and beside is not None:
                again = neighbour.step(0, PATTERNS[1], POISONS[1])
                self._same(neighbour, beside, again, 0, "a neighbour, launched in turns")
        worst = [
            judge(self.family, node.op, self.case, node.inputs[i], first[i], f"step {i}")
            for i in order
        ]
        if neighbour is not None and beside is not None:
            what = f"a neighbour, {neighbour.case!r},"
            judge(self.family, node.op, neighbour.case, neighbour.inputs[0], beside, what)
        return first, max(worst, default=0.0)

    def _neighbour(self) -> Node | None:
        """Another node of the same kernel, bound after ours: other weights, attributes, lengths."""
        for case in _neighbours(self.family, self.node):
            try:
                other = Node(self.bench, self.kernel, self.family, case)
            except (PerfxlmError, ValueError, IndexError):  # these lengths are not legal
                continue
            if other.refusal() is None:
                other.bind()
                return other
        return None

    def _same(
        self,
        node: Node,
        one: Sequence[np.ndarray],
        two: Sequence[np.ndarray],
        index: int,
        where: str,
    ) -> None:
        """Raise Failure unless both launches of a step gave the same bits.

        Two more tell whether what lies around the inputs is the reason.
        """
        for at, name in enumerate(results_of(node.op)):
            a, b = one[at], two[at]
            if a.tobytes() == b.tobytes():
                continue
            missed = _unwritten(a, PATTERNS[0]) & _unwritten(b, PATTERNS[1])
            if missed.any():
                place = [int(i) for i in np.argwhere(missed)[0]]
                raise Failure(
                    "writes",
                    f"{name}{place} of {where} is never written; "
                    f"{int(missed.sum())} of {missed.size} elements in all",
                )
            third, fourth = (node.step(index, PATTERNS[1], p)[at] for p in POISONS)
            if third.tobytes() == a.tobytes() and fourth.tobytes() == b.tobytes():
                raise Failure(
                    "reads",
                    f"{name} of {where} depends on what lies around the inputs "
                    f"({first_difference(a, b)})",
                )
            raise Failure(
                "determinism",
                f"{name} of {where} has other bits when launched again ({first_difference(a, b)}); "
                "it may depend on what its memory held before, on other launches, or on timing",
            )

    def _bound_elsewhere(self, first: Sequence[Sequence[np.ndarray]]) -> None:
        """The same node again, with other poison around its constants.

        Where rows do not depend on their batch, they do not depend on where operands lie either.
        """
        constant = any(isinstance(v, Tensor) for v in flat(self.node.inputs[0]).values())
        if not constant and not self.kernel.promises_rows:
            return
        with self.bench.copy() as same:
            self._same_bits_on(same, first, "reads", "what lies around the constants")
        if self.kernel.promises_rows:
            with self.bench.copy("arena", self.case.seed + 1) as other:
                self._same_bits_on(other, first, "invariance", "where the operands lie")

    def _same_bits_on(
        self, bench: Bench, first: Sequence[Sequence[np.ndarray]], check: str, what: str
    ) -> None:
        again = self.node.elsewhere(bench)
        again.bind(POISONS[1])
        for name, a, b in zip(results_of(self.node.op), first[0], again.step(0), strict=True):
            if a.tobytes() != b.tobytes():
                raise Failure(
                    check, f"{name} of step 0 depends on {what} ({first_difference(a, b)})"
                )

    def _same_memory_for_two_inputs(self) -> None:
        """One value of a graph may be two inputs of a node."""
        pair = self._twins()
        if pair is None:
            return
        node = Node(self.bench, self.kernel, self.family, self.case, {pair[1]: pair[0]})
        node.bind()
        try:
            judge(self.family, node.op, self.case, node.inputs[0], node.step(0), "step 0")
        except Failure as failure:
            told = f"{pair[0]} and {pair[1]} are the same memory: {failure}"
            raise Failure("aliasing", told) from failure

    def _twins(self) -> tuple[str, str] | None:
        """Two activations of the same type, if there are any."""
        found: dict[Any, str] = {}
        for param in self.node.op.params:
            given = self.node.inputs[0][param.name]
            if param.dtype.name != "T" or not isinstance(given, np.ndarray):
                continue
            kind = self.node.types[param.name]
            if kind in found:
                return found[kind], param.name
            found[kind] = param.name
        return None

    # Rows

    def _rows_in_other_batches(self, first: Sequence[Sequence[np.ndarray]]) -> None:
        for index in range(len(first)):
            self._step_in_other_batches(index, first)

    def _step_in_other_batches(self, index: int, first: Sequence[Sequence[np.ndarray]]) -> None:
        node = self.node
        given = node.inputs[index]
        made = self.family.batches(node.op, self.case, given, node.largest, self.rng)
        for batch in made:
            sizes = {**node.sizes(index), **batch.sizes} if node.largest else {}
            results = node.launch(batch.arrays, sizes)
            for name, a, b in zip(results_of(node.op), first[index], results, strict=True):
                wanted = a[batch.source]
                rows = [i for i in range(len(b)) if not _equal(wanted[i], b[i])]
                if rows:
                    raise Failure(
                        "invariance",
                        f"row {int(batch.source[rows[0]])} of {name} in step {index} has other "
                        f"bits {batch.label}: "
                        f"{first_difference(b[rows[0]], wanted[rows[0]])}; the promise is that "
                        "a row does not depend on its batch",
                    )


def _neighbours(family: Family, node: Node) -> Iterator[Case]:
    """Cases for another node, the most different first."""
    case = node.case
    attrs = {k: v * 2 if isinstance(v, float) else v for k, v in node.attrs.items()}
    kept = {k: v for k, v in attrs.items() if k != "dtype" or "dtype" in case.attrs}
    other = replace(case, seed=case.seed + 1, attrs=kept, steps=case.steps[:1])
    lengths = {k: v for k, v in case.sizes.items() if isinstance(v, int)}
    if lengths and max(lengths.values()) <= DOUBLED:
        yield replace(other, sizes={**case.sizes, **{k: 2 * v for k, v in lengths.items()}})
    yield other


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    """Same bits; NaN is NaN."""
    if a.tobytes() == b.tobytes():
        return True
    if a.dtype.kind in "iub":
        return False
    nan = np.isnan(a) & np.isnan(b)
    return bool(nan.any()) and _equal(np.where(nan, 0, a), np.where(nan, 0, b))


def _unwritten(array: np.ndarray, pattern: int) -> np.ndarray:
    """Where an output still holds the bytes that it was filled with."""
    raw = np.ascontiguousarray(array).reshape(-1, 1).view(np.uint8)
    return np.asarray((raw == pattern).all(axis=1).reshape(array.shape))
