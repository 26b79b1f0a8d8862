"""One case on one device: planned, run twice, and compared with float64."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from perfxlm_core.conformance.case import Failure
from perfxlm_core.conformance.check import Outcome
from perfxlm_core.conformance.plans.case import GraphCase, ModelCase
from perfxlm_core.conformance.plans.diagnosis import Finding, diagnose
from perfxlm_core.conformance.plans.jobs import DeclinedError, Job, prepare
from perfxlm_core.conformance.plans.machine import Machine
from perfxlm_core.conformance.plans.reference import Arrays, Expected, expect, same_range
from perfxlm_core.graph import plan

if TYPE_CHECKING:
    from perfxlm_core.conformance.target import Target

PATTERNS = (0xFF, 0x5A)
"""What memory holds where nothing was written, the first time and the second: NaN in each float
dtype; large numbers."""
HEADROOM = 64.0
"""How far below a dtype's largest number values must stay for a case to count."""


def run_plan_case(target: Target, case: ModelCase | GraphCase) -> Outcome:
    """Plan a model or a graph for a device and run its steps.

    Every step's outputs must be right within what the operators allow, the same bits whatever the
    memory held before, and nothing but the plan's own memory may change. When they are not, the
    steps are run again launch by launch, to name the first value that is wrong.

    Raises:
        Failure: something is wrong; the message says what.
    """
    with np.errstate(all="ignore"), _quiet():
        try:
            job = prepare(target, case)
        except DeclinedError as reason:
            return Outcome(declined=str(reason))
        expected = expect(job.graph, job.steps, job.feeds, case.seed)
        if _overflows(job, expected):
            return Outcome(declined=f"values leave the range of {job.graph.dtype}")
        try:
            return Outcome(_run(job, expected))
        except Failure as failure:
            found = diagnose(job, case.seed, PATTERNS[0])
            if found is None:
                raise
            raise Failure(found.check, _joined(found, failure)) from failure


def _joined(found: Finding, failure: Failure) -> str:
    """What was found, and what it was first seen as, unless that is the same value."""
    seen = str(failure)
    same = found.check == "smoke" or seen.rpartition(": at ")[2] in found.text
    return found.text if same else f"{found.text} (seen as {seen})"


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings about slow or large plans: they are not what is tested."""
    log = logging.getLogger(plan.__name__)
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def _overflows(job: Job, expected: Expected) -> bool:
    limit = float(np.finfo(same_range(job.graph.dtype)).max) / HEADROOM
    arrays = [a for step in expected.values for a in step.values() if a.dtype.kind == "f"]
    return any(bool((~(np.abs(a) < limit)).any()) for a in arrays)


def _run(job: Job, expected: Expected) -> float:
    machine = Machine(job)
    first = _pass(machine, PATTERNS[0], as_engine=machine.runner is not None)
    worst = max((_judge(expected, i, out) for i, out in enumerate(first)), default=0.0)
    second = _pass(machine, PATTERNS[1], as_engine=False)
    for i, (before, now) in enumerate(zip(first, second, strict=True)):
        for name, array in now.items():
            if array.astype(before[name].dtype).tobytes() != before[name].tobytes():
                raise Failure(
                    "reads",
                    f"step {i} gives another {name} when memory that it has not written holds "
                    "something else, or the second time",
                )
    return worst


def _pass(machine: Machine, pattern: int, *, as_engine: bool) -> list[Arrays]:
    """All steps once, on caches and an arena filled with a pattern."""
    machine.reset(pattern)
    made: list[Arrays] = []
    for index, batch in enumerate(machine.job.steps):
        machine.feed(index, pattern)
        if as_engine:
            (output,) = machine.plan.graph.outputs
            made.append({machine.names[output]: machine.run_model(index)})
        else:
            machine.run(index, machine.bound.program)
            made.append(machine.outputs(batch.sizes))
        machine.check_step(index, pattern)
    machine.check_caches(pattern)
    return made


def _judge(expected: Expected, index: int, outputs: Arrays) -> float:
    """The largest error of a step, in units of what is allowed."""
    worst = 0.0
    for name, array in outputs.items():
        wrong = expected.wrong(index, name, array)
        if wrong is not None:
            raise Failure("values", f"{name} of step {index}{wrong}")
        worst = max(worst, float(expected.excess(index, name, array).max(initial=0.0)))
    return worst
