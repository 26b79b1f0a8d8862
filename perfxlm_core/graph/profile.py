"""Where the time of a program goes: each launch's spans, and what the operators add up to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter_ns
from typing import Any

import numpy as np

from perfxlm_core.graph.costs import Cost, Ragged, cost_of
from perfxlm_core.graph.ir import Node
from perfxlm_core.graph.plan import Bound, Step
from perfxlm_core.graph.runner import ModelRunner
from perfxlm_core.registry.device import Device, Launch, ProfiledProgram, Program, Span, timed

Trace = dict[str, Any]
"""JSON of the Trace Event Format, which Perfetto and Chrome's chrome://tracing open."""


@dataclass(frozen=True)
class Run:
    """One run of a program, profiled.

    Attributes:
        sizes: of the symbols.
        batch: its sequences.
        start: nanoseconds of `time.perf_counter_ns`.
        end: the same.
        spans: of all launches and lanes.
    """

    sizes: Mapping[str, int]
    batch: Ragged
    start: int
    end: int
    spans: Sequence[Span]


class Recorder:
    """A program that records its runs; use with `ModelRunner.watch`.

    Args:
        runner: the runner whose program is watched.
    """

    def __init__(self, runner: ModelRunner) -> None:
        self.runner = runner
        self.runs: list[Run] = []
        self.steps = [s for s in runner.bound.plan.steps if s.how != "view"]

    def watch(self, program: Program) -> Program:
        """The program as it is where it can profile itself, else its launches one by one."""
        bound = self.runner.bound
        inner = program if isinstance(program, ProfiledProgram) else _OneByOne(bound)

        def run(sizes: Mapping[str, int]) -> None:
            start = perf_counter_ns()
            spans = inner.profile(sizes)
            end = perf_counter_ns()
            self.runs.append(Run(dict(sizes), self._batch(sizes), start, end, spans))

        return run

    def _batch(self, sizes: Mapping[str, int]) -> Ragged:
        inputs, seqs = self.runner.inputs, sizes["seqs"]
        counts = np.diff(inputs.query_starts[: seqs + 1])
        return Ragged(counts.tolist(), inputs.seq_lens[:seqs].tolist())

    def node(self, span: Span) -> Node:
        """What a span ran."""
        return self.steps[span.launch].node


class _OneByOne:
    """Launches with a wait behind each, for devices that cannot profile a program."""

    def __init__(self, bound: Bound) -> None:
        self._launches: Sequence[Launch] = bound.launches
        self._device: Device = bound.plan.device

    def __call__(self, sizes: Mapping[str, int]) -> None:
        self.profile(sizes)

    def profile(self, sizes: Mapping[str, int]) -> list[Span]:
        found = []
        for index, launch in enumerate(self._launches):
            span = timed(launch, sizes, self._device)[0]
            found.append(replace(span, launch=index))
        return found


@dataclass
class Total:
    """What the launches of an operator took together.

    Attributes:
        seconds: mean over the lanes.
        calls: launches.
        nbytes: that they had to move at least.
        operations: floating-point operations.
        ideal: seconds that the device's limits allow them; None if those are not known or say
            nothing about the operator.
    """

    seconds: float = 0.0
    calls: int = 0
    nbytes: int = 0
    operations: int = 0
    ideal: float | None = None

    def add(self, cost: Cost, limits: Mapping[str, float]) -> None:
        """One more launch."""
        self.calls += 1
        self.nbytes += cost.nbytes
        self.operations += cost.operations
        least = ideal_seconds(cost, limits)
        if least is not None:
            self.ideal = (self.ideal or 0.0) + least


@dataclass(frozen=True)
class Summary:
    """Runs added up.

    Attributes:
        runs: how many.
        seconds: from the beginning to the end of each, together.
        totals: operator -> what its launches took, the longest first.
        waiting: seconds that lanes waited for one another or for the first launch, mean over lanes.
            With the operators' seconds it adds up to `seconds`.
    """

    runs: int
    seconds: float
    totals: dict[str, Total] = field(default_factory=dict)
    waiting: float = 0.0


def ideal_seconds(cost: Cost, limits: Mapping[str, float]) -> float | None:
    """The roofline: what memory or arithmetic needs at least, whichever is longer.

    Weights and caches come from memory; activations may not, and do not count.
    """
    needs = [
        work / limits[limit]
        for work, limit in ((cost.memory, "read"), (cost.operations, cost.arithmetic))
        if work and limits.get(limit)
    ]
    return max(needs, default=None)


def summarize(recorder: Recorder, runs: Iterable[Run], limits: Mapping[str, float]) -> Summary:
    """Add up runs by operator."""
    totals: dict[str, Total] = {}
    seconds, count = 0.0, 0
    for run in runs:
        count += 1
        seconds += (run.end - run.start) / 1e9
        lanes = 1 + max((s.lane for s in run.spans), default=0)
        for span in run.spans:
            node = recorder.node(span)
            total = totals.setdefault(node.op.name, Total())
            total.seconds += (span.end - span.start) / 1e9 / lanes
            if span.lane == 0:
                total.add(cost_of(node, run.sizes, run.batch), limits)
    ordered = dict(sorted(totals.items(), key=lambda item: -item[1].seconds))
    waiting = seconds - sum(t.seconds for t in ordered.values())
    return Summary(count, seconds, ordered, waiting)


def trace_events(recorder: Recorder, runs: Sequence[Run], origin: int) -> list[Trace]:
    """Events of all spans, times counted from `origin`; a thread for each lane, from 1 on."""
    lanes = 1 + max((s.lane for run in runs for s in run.spans), default=0)
    events = [
        {"ph": "M", "name": "thread_name", "pid": 1, "tid": 1 + lane,
         "args": {"name": f"{recorder.runner.bound.plan.device.name} lane {lane}"}}
        for lane in range(lanes)
    ]  # fmt: skip
    for run in runs:
        costs: dict[int, Cost] = {}
        for span in run.spans:
            step = recorder.steps[span.launch]
            if span.launch not in costs:
                costs[span.launch] = cost_of(step.node, run.sizes, run.batch)
            if span.start > span.arrived:
                events.append(_event("wait", "wait", span.arrived, span.start, span.lane, origin))
            about = _about(step, costs[span.launch])
            name = step.node.op.name
            events.append(_event(name, "node", span.start, span.end, span.lane, origin, about))
    return events


def _about(step: Step, cost: Cost) -> Trace:
    return {
        "scope": step.node.scope,
        "kernel": step.kernel.name if step.kernel else step.how,
        "bytes": cost.nbytes,
        "operations": cost.operations,
    }


def _event(
    name: str, kind: str, start: int, end: int, lane: int, origin: int, about: Trace | None = None
) -> Trace:
    times = {"ts": (start - origin) / 1e3, "dur": (end - start) / 1e3}  # microseconds
    return {"ph": "X", "name": name, "cat": kind, "pid": 1, "tid": 1 + lane, **times,
            "args": about or {}}  # fmt: skip
