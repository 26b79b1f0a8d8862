"""A plan in a device's memory that is full of garbage wherever a step has not written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from perfxlm_core.conformance.case import Failure
from perfxlm_core.conformance.plans.jobs import MARGIN, Job
from perfxlm_core.conformance.plans.reference import Arrays
from perfxlm_core.graph.ir import Graph, Node, Value
from perfxlm_core.graph.plan import Step
from perfxlm_core.graph.runner import ModelRunner
from perfxlm_core.ops.types import concrete, itemsize, numpy_dtype
from perfxlm_core.registry.device import Launch, Operand, Program, operand_view

Array = npt.NDArray[Any]


class Machine:
    """A bound plan.

    Raises:
        Failure: a kernel's bind raises.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.plan = job.plan()
        self.device = self.plan.device
        try:
            self.bound = self.plan.bind()
        except Exception as error:
            raise Failure("smoke", f"binding raises {type(error).__name__}: {error}") from error
        self.runner = None if job.limits is None else ModelRunner(self.bound, job.limits)
        self.symbols = tuple(self.plan.sizes)
        self.names = _names(self.plan.graph, job.graph)

    def nodes(self) -> list[tuple[Step, Launch]]:
        """Steps of the plan that are launched, in order."""
        launched = [s for s in self.plan.steps if s.how != "view"]
        return list(zip(launched, self.bound.launches, strict=True))

    def reset(self, pattern: int) -> None:
        """Fill the caches."""
        for state in self.plan.graph.states.values():
            self._fill(self.bound.values[state], pattern)

    def feed(self, index: int, pattern: int) -> None:
        """Fill the arena, then write a step's inputs."""
        arena = Operand("arena", (self.plan.arena.nbytes,), "uint8", self.bound.arena, 0)
        self._fill(arena, pattern)
        sizes = self.job.steps[index].sizes
        for name, array in self.job.feeds[index].items():
            self.device.copy_in(self.bound.view(name, sizes), array)

    def run(self, index: int, program: Program, what: str = "the program") -> None:
        """Run a program on what was fed.

        Raises:
            Failure: it raises; the message says `what` does.
        """
        try:
            program(dict(self.job.steps[index].sizes))
            self.device.synchronize()
        except Exception as error:
            raise Failure(
                "smoke", f"{what} raises in step {index}: {type(error).__name__}: {error}"
            ) from error

    def run_model(self, index: int) -> Array:
        """Run a step as the engine does; its logits, float32."""
        assert self.runner is not None
        batch = self.job.steps[index]
        for name, array in self.job.feeds[index].items():
            target = getattr(self.runner.inputs, name)
            target[tuple(slice(n) for n in array.shape)] = array
        sizes = batch.sizes
        try:
            return self.runner.run(sizes["tokens"], sizes["seqs"], sizes["rows"]).copy()
        except Exception as error:
            raise Failure(
                "smoke", f"the program raises in step {index}: {type(error).__name__}: {error}"
            ) from error

    def read(self, value: Value, sizes: Mapping[str, int]) -> Array:
        """A value as it now is."""
        operand = self.bound.values.get(value) or self.bound.operands[value.name]
        made = np.empty(concrete(operand.shape, sizes), numpy_dtype(operand.dtype))
        self.device.copy_out(made, operand_view(self.device, operand, sizes))
        return made

    def outputs(self, sizes: Mapping[str, int]) -> Arrays:
        """What the graph gives, by the names that it had before planning."""
        return {self.names[v]: self.read(v, sizes) for v in self.plan.graph.outputs}

    def check_step(self, index: int, pattern: int) -> None:
        """Nothing is written around the arena, and no input.

        Raises:
            Failure: something is.
        """
        nbytes = self.plan.arena.nbytes
        whole = np.empty(nbytes, np.uint8)
        self.device.copy_out(whole, self.device.view(self.bound.arena, 0, (nbytes,), "uint8"))
        for label, part in (("before", whole[:MARGIN]), ("behind", whole[-MARGIN:])):
            if (part != pattern).any():
                raise Failure("writes", f"step {index} writes {label} the arena of the plan")
        batch = self.job.steps[index]
        for name, array in self.job.feeds[index].items():
            now = self.read(self.plan.graph.inputs[name], batch.sizes)
            if now.tobytes() != array.tobytes():
                raise Failure("inputs", f"step {index} changes the graph's input {name}")

    def check_caches(self, pattern: int) -> None:
        """Slots of no token are as they were.

        Raises:
            Failure: one is written.
        """
        size = self.job.cache.block_size
        used = np.zeros(self.job.cache.blocks * size, bool)
        for batch in self.job.steps:
            used[batch.feeds["slot_mapping"]] = True
        for state in self.plan.graph.states.values():
            now = self.read(state, {})
            slots = np.ascontiguousarray(now).view(np.uint8).reshape(len(used), -1)
            written = np.flatnonzero((slots[~used] != pattern).any(axis=1))
            if written.size:
                slot = int(np.flatnonzero(~used)[written[0]])
                raise Failure(
                    "writes",
                    f"slot {slot} of {state.name} is written, though no token is mapped to it",
                )

    def _fill(self, operand: Operand, pattern: int) -> None:
        count = int(np.prod(concrete(operand.shape, {}))) * itemsize(operand.dtype)
        view = self.device.view(operand.buffer, operand.offset, (count,), "uint8")
        self.device.copy_in(view, np.full(count, pattern, np.uint8))


def _names(planned: Graph, graph: Graph) -> dict[Value, str]:
    """Value of a plan -> its name before planning, which gives results of composites new ones.

    What an untouched node reads stands where it stood; so do the outputs of the graph. Values
    inside a composite that was replaced by its body have no such name.
    """
    before: dict[str, Node] = {v.name: node for node in graph.nodes for v in node.outputs}
    found = {value: name for name, value in planned.inputs.items()}
    for node in planned.nodes:
        old = before.get(node.outputs[0].name) if node.outputs else None
        if old is None or old.op is not node.op:
            continue
        for (_, value), (_, was) in zip(node.arguments(), old.arguments(), strict=True):
            found[value] = was.name
        for value in node.outputs:
            found[value] = value.name
    for value, was in zip(planned.outputs, graph.outputs, strict=True):
        found[value] = was.name
    return found
