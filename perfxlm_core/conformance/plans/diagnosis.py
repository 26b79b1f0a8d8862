"""Where a plan first goes wrong: the same steps, one launch at a time."""

from __future__ import annotations

from dataclasses import dataclass

from perfxlm_core import ops
from perfxlm_core.conformance.case import Failure
from perfxlm_core.conformance.plans.jobs import Job
from perfxlm_core.conformance.plans.machine import Machine
from perfxlm_core.conformance.plans.reference import Expected, expect
from perfxlm_core.graph.ir import Value
from perfxlm_core.graph.plan import Step
from perfxlm_core.ops.types import concrete, itemsize


@dataclass(frozen=True)
class Finding:
    """What is wrong, and the check that it belongs to."""

    check: str
    text: str


def diagnose(job: Job, seed: int, pattern: int) -> Finding | None:
    """Name the first value that is wrong; None if nothing shows launch by launch.

    First every launch runs alone: a wrong result is its kernel's, a value that changes while it
    is still needed is the memory plan's or a kernel's that writes where it should not. If all of
    that is right, growing parts of the program show the launch from which on it is wrong.

    Args:
        job: what failed.
        seed: of the errors that are allowed.
        pattern: what memory holds where nothing was written.
    """
    try:
        machine = Machine(job)
        expected = expect(machine.plan.graph, job.steps, job.feeds, seed)
        return _alone(machine, expected, pattern) or _together(Machine(job), expected, pattern)
    except Failure as failure:
        return Finding(failure.check, str(failure).removeprefix(f"{failure.check}: "))


def _alone(machine: Machine, expected: Expected, pattern: int) -> Finding | None:
    job, nodes = machine.job, machine.nodes()
    machine.reset(pattern)
    programs = [machine.device.program([launch], machine.symbols) for _, launch in nodes]
    needed = _last_uses(machine)
    for index, batch in enumerate(job.steps):
        machine.feed(index, pattern)
        alive: dict[Value, bytes] = {
            v: machine.read(v, batch.sizes).tobytes() for v in machine.plan.graph.inputs.values()
            if v.name in job.feeds[index]
        }  # fmt: skip
        for at, (step, _) in enumerate(nodes):
            machine.run(index, programs[at], f"{describe(step)}, run alone,")
            found = _overwritten(machine, step, index, alive)
            found = found or _wrong(machine, step, index, expected, " run alone")
            if found is not None:
                return found
            for value in step.node.outputs:
                alive[value] = machine.read(value, batch.sizes).tobytes()
            alive = {v: bits for v, bits in alive.items() if needed.get(v, 0) > at}
    return None


def _together(machine: Machine, expected: Expected, pattern: int) -> Finding | None:
    """Programs of the first launch, the first two, and so on."""
    job, nodes = machine.job, machine.nodes()
    for count in range(1, len(nodes) + 1):
        program = machine.device.program([launch for _, launch in nodes[:count]], machine.symbols)
        machine.reset(pattern)
        for index in range(len(job.steps)):
            machine.feed(index, pattern)
            machine.run(index, program)
            how = f" in a program of the first {count} launches, though not when run alone"
            found = _wrong(machine, nodes[count - 1][0], index, expected, how)
            if found is not None:
                return Finding("program", found.text)
    return None


def _last_uses(machine: Machine) -> dict[Value, int]:
    """Value -> index of the last launch that reads it, views followed; past the end if it stays."""
    roots: dict[Value, Value] = {}
    launched = [step for step, _ in machine.nodes()]
    for step in machine.plan.steps:
        if step.how == "view":
            source = step.node.inputs["x"]
            roots[step.node.outputs[0]] = roots.get(source, source)
    last: dict[Value, int] = {}
    for at, step in enumerate(launched):
        for _, value in step.node.arguments():
            last[roots.get(value, value)] = at
    for value in (*machine.plan.graph.outputs, *machine.plan.graph.inputs.values()):
        last[roots.get(value, value)] = len(launched)
    return last


def _overwritten(
    machine: Machine, step: Step, index: int, alive: dict[Value, bytes]
) -> Finding | None:
    sizes = machine.job.steps[index].sizes
    for value, bits in alive.items():
        if machine.read(value, sizes).tobytes() == bits:
            continue
        clash = _planned_there(machine, step, value)
        why = (
            f"the plan gives both the same bytes: {clash}"
            if clash
            else "the plan keeps them apart, so the kernel writes where it should not"
        )
        return Finding(
            "writes",
            f"{value.name}, still needed, is overwritten by {describe(step)} in step {index}; "
            f"{why}",
        )
    return None


def _planned_there(machine: Machine, step: Step, value: Value) -> str:
    """Which of a node's outputs or scratch memory the plan lays over a value; empty if none."""
    plan = machine.plan
    at = plan.steps.index(step)
    taken = [(v.name, *_range(machine, v)) for v in step.node.outputs]
    taken += [
        (block.name, offset, offset + block.nbytes)
        for block, offset in zip(plan.lifetimes, plan.arena.offsets, strict=True)
        if block.first == at and block.name.startswith("scratch of ")
    ]
    start, end = _range(machine, value)
    return ", ".join(
        f"{value.name} at {start}..{end}, {name} at {first}..{last}"
        for name, first, last in taken
        if first < end and start < last
    )


def _range(machine: Machine, value: Value) -> tuple[int, int]:
    """Where a value lies in the arena, at its largest."""
    operand, size = machine.bound.values[value], itemsize(value.dtype)
    for length in concrete(operand.shape, machine.plan.sizes):
        size *= length
    return operand.offset, operand.offset + size


def _wrong(
    machine: Machine, step: Step, index: int, expected: Expected, how: str
) -> Finding | None:
    batch, node = machine.job.steps[index], step.node
    written = [(v.name, v.name, machine.read(v, batch.sizes)) for v in node.outputs]
    if node.op is ops.store_kv:
        slots = batch.feeds["slot_mapping"]
        for name in ("k", "v"):
            cache = node.inputs[f"{name}_cache"]
            rows = machine.read(cache, batch.sizes).reshape(-1, *cache.shape[2:])[slots]
            written.append((cache.name, node.inputs[name].name, rows))
    for shown, name, array in written:
        wrong = expected.wrong(index, name, array)
        if wrong is not None:
            return Finding(
                "values",
                f"the first wrong value is {shown} ({describe(step)}{how}) of step {index}{wrong}",
            )
    return None


def describe(step: Step) -> str:
    """Operator and what runs it: "linear by acme.linear"."""
    by = step.kernel.name if step.kernel is not None else f"the {step.how}"
    return f"{step.node.op.name} by {by}"
