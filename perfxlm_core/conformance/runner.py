"""All cases of a plugin: what becomes of each kernel, with the smallest case where it is wrong."""

from __future__ import annotations

import time
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis import errors as hypothesis_errors
from hypothesis.strategies import SearchStrategy

from perfxlm_core.conformance.case import Case, Failure
from perfxlm_core.conformance.device import DeviceCase
from perfxlm_core.conformance.slots import PLAN, Slot, slots
from perfxlm_core.conformance.target import Executor, Target
from perfxlm_core.errors import ArgumentError

if TYPE_CHECKING:
    from perfxlm_core.conformance.plans import GraphCase, ModelCase

EXAMPLES = 60
"""Cases for each row of the table."""
BATCH = 10
"""Cases drawn at a time. Behind so many, hypothesis makes most examples from the one before, which
finds duplicates within an example; here it costs variety."""
MORE = 3
"""How many times as many cases are drawn at most, for a kernel that declines most of them."""
SCARCE = 10
"""A kernel that takes less than one case in so many is hardly tried."""
SHRINK_SECONDS = 20.0
"""How long a failing case is made smaller."""


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        op: operator's name; "model" or "graph" for whole plans.
        kernel: kernel's name; None where the plugin has none.
        dtype: of activations.
        format: of weights or cache; "-" where there are none.
        passed: cases that ran and were right.
        declined: cases that the kernel did not take.
        worst: largest error in units of what is allowed.
        failure: what is wrong, in a line; None if nothing is.
        case: the smallest case that shows it.
        note: for rows without cases, why.
        reason: the most frequent reason for declining, or for there being no cases.
        output: what the plugin printed before it failed, or where it raised.
        seconds: that the row took.
    """

    op: str
    kernel: str | None
    dtype: str = "-"
    format: str = "-"
    passed: int = 0
    declined: int = 0
    worst: float = 0.0
    failure: str | None = None
    case: Any = None
    note: str | None = None
    reason: str | None = None
    output: str = ""
    seconds: float = field(default=0.0, compare=False)

    @property
    def status(self) -> str:
        """One of passed, declined, failed, reference (the plugin has no kernel), not covered."""
        if self.failure is not None:
            return "failed"
        if self.note is not None:
            return self.note
        return "passed" if self.passed else "declined"

    @property
    def scarce(self) -> bool:
        """Whether the kernel declined so many cases that it was hardly tried."""
        return self.declined > 0 and self.passed * SCARCE < self.passed + self.declined


def run_slot(
    target: Executor, slot: Slot, examples: int = EXAMPLES, start: int = 0, large: bool = False
) -> Row:
    """Try a kernel with many cases; the first that fails is made as small as it gets.

    Of a kernel that declines most, every other batch has the attributes and optional inputs of a
    case that it took, or the defaults, and up to MORE times as many cases are drawn.

    Args:
        target: the plugin.
        slot: what to try.
        examples: how many cases.
        start: seed of the cases.
        large: whether cases have the sizes of real models.
    """
    if slot.kernel is None:
        return Row(slot.op, None, note=slot.note)
    if slot.note is not None:
        return Row(slot.op, slot.kernel.name, note=slot.note, reason=slot.reason)
    search = _Search(target, slot.kernel.index, slot.count(examples))
    began, more, batch = time.monotonic(), True, 0
    while more:
        like = search.like(slot.op) if batch % 2 else None
        cases = slot.cases(large, like)
        more = _try_batch(search, cases, zlib.crc32(f"{start} {slot.name} {batch}".encode()))
        batch += 1
    failure = search.failure
    return Row(
        slot.op, slot.kernel.name, slot.variant.dtype, slot.variant.label,
        search.passed, search.declined, search.worst,
        None if failure is None else str(failure), search.case,
        reason=search.reason(), output=getattr(failure, "output", ""),
        seconds=time.monotonic() - began,
    )  # fmt: skip


def _try_batch(search: _Search, cases: SearchStrategy[Any], start: int) -> bool:
    """Try some cases that have nothing in common; whether it is worth to try more."""
    before = search.tried

    @seed(start)
    @settings(
        max_examples=BATCH,
        deadline=None,
        database=None,
        derandomize=False,
        verbosity=Verbosity.quiet,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        print_blob=False,
    )
    @given(cases)
    def attempt(case: Any) -> None:  # noqa: ANN401 - a case of any kind
        search.attempt(case)

    try:
        attempt()
    except (_Found, hypothesis_errors.Flaky):
        assert search.failure is not None
        return False
    return search.tried > before and not search.enough


class _Found(Exception):
    """A case failed."""


class _Search:
    """The cases of a row as they come, and what is known of them; `wanted` are tried."""

    def __init__(self, target: Executor, kernel: int, wanted: int) -> None:
        self.target, self.kernel, self.wanted = target, kernel, wanted
        self.passed, self.declined, self.worst = 0, 0, 0.0
        self.case: Any = None
        self.failure: Failure | None = None
        self._reasons: Counter[str] = Counter()
        self._examples: dict[str, str] = {}
        self._failed: dict[str, Failure] = {}
        self._right: set[str] = set()
        self._until = float("inf")
        self._taken: Case | None = None

    def attempt(self, case: Any) -> None:  # noqa: ANN401 - a case of any kind
        """Try one; a failure seen before is not tried again, and is always the same to hypothesis.

        When the time for shrinking is over, cases not seen before count as right.
        """
        name = repr(case)
        known = self._failed.get(name)
        if name in self._right or (self.failure is None and self.enough):
            return
        if known is None and time.monotonic() < self._until:
            known = self._judge(case)
            if known is None:
                self._right.add(name)
        if known is not None:
            self.case, self.failure = case, known
            raise _Found

    @property
    def tried(self) -> int:
        """Cases that did not fail, before one did."""
        return self.passed + self.declined

    @property
    def enough(self) -> bool:
        """Whether no more cases are needed: more than `wanted` only if some, but few, ran."""
        few = 0 < 2 * self.passed < self.wanted and self.tried < MORE * self.wanted
        return self.tried >= self.wanted and not few

    def like(self, op: str) -> Case | None:
        """A case that the kernel takes, or may take, if it declines most; None if it does not."""
        if 2 * self.passed >= self.tried:
            return None
        return self._taken or Case(op)

    def reason(self) -> str | None:
        """The most frequent reason for declining, as it was first given."""
        return self._examples[self._reasons.most_common(1)[0][0]] if self._reasons else None

    def _judge(self, case: Any) -> Failure | None:  # noqa: ANN401
        try:
            outcome = self.target.run(self.kernel, case)
        except Failure as failure:
            if self.failure is not None and failure.check != self.failure.check:
                return None  # shrinking stays with the kind of failure it began with
            if not self._failed:
                self._until = time.monotonic() + SHRINK_SECONDS
            self._failed[repr(case)] = failure
            return failure
        if self.failure is None:
            self.passed += outcome.declined is None
            self.declined += outcome.declined is not None
            self.worst = max(self.worst, outcome.worst)
        if outcome.declined is None and isinstance(case, Case):
            self._taken = case
        if outcome.declined is not None:
            kind = outcome.declined.split(" ")[0]
            kind = kind if kind == "declines" else outcome.declined
            self._reasons[kind] += 1
            self._examples.setdefault(kind, outcome.declined)
        return None


def run(
    target: Executor,
    only: str | None = None,
    examples: int = EXAMPLES,
    start: int = 0,
    large: bool = False,
) -> Iterator[Row]:
    """Rows of the table, as they are done; for arguments see `slots` and `run_slot`."""
    for slot in slots(target, only):
        yield run_slot(target, slot, examples, start, large)


def check(
    target: Target | str,
    case: Case | DeviceCase | ModelCase | GraphCase,
    *,
    kernel: str | None = None,
    guard: bool = False,
) -> list[float]:
    """Try one case in this process, where a debugger sees it: what a failure's Python does.

    Args:
        target: the plugin, or its name.
        case: the case.
        kernel: name of the kernel; None for all that take it.
        guard: forbid pages beside operands, see `run_case`.

    Returns:
        For each kernel that took it, the worst error in units of what is allowed.

    Raises:
        Failure: a kernel is wrong.
        ArgumentError: the plugin has no such kernel, or none of its kernels takes the case.
    """
    found = Target.load(target) if isinstance(target, str) else target
    if not isinstance(case, Case):
        return _check_plan(found, case)
    kernels = [k for k in found.facts.kernels if k.op == case.op and kernel in (None, k.name)]
    outcomes = [(k, found.run(k.index, case, guard)) for k in kernels]
    taken = [o.worst for _, o in outcomes if o.declined is None]
    if not taken:
        reasons = "; ".join(f"{k.name}: {o.declined}" for k, o in outcomes) or "it has none"
        raise ArgumentError(f"no kernel of {found.name} runs this {case.op}: {reasons}")
    return taken


def _check_plan(target: Target, case: DeviceCase | ModelCase | GraphCase) -> list[float]:
    outcome = target.run(PLAN, case)
    if outcome.declined is not None:
        raise ArgumentError(f"{target.name} does not run this case: {outcome.declined}")
    return [outcome.worst]


def snippet(target: str, row: Row) -> str:
    """A few lines of Python that show a row's failure again."""
    if not isinstance(row.case, Case):
        kind = type(row.case)
        home = "device" if kind is DeviceCase else "plans"
        return (
            "from perfxlm_core.conformance import check\n"
            f"from perfxlm_core.conformance.{home} import {kind.__name__}\n\n"
            f"case = {row.case!r}\n"
            f"check({target!r}, case)"
        )
    guard = ", guard=True" if row.case.layout == "edge" else ""
    return (
        "from perfxlm_core.conformance import Case, check\n\n"
        f"case = {row.case!r}\n"
        f"check({target!r}, case, kernel={row.kernel!r}{guard})"
    )
