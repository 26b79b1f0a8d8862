"""A plan: a kernel for each node, a place for every byte, and one program that runs it all.

`decide` chooses kernels, `lay_out` places activations, `bind` takes the memory and makes the
program. The first two cost nothing and touch no device memory, so that what does not fit is
refused before anything is loaded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from perfxlm_core import ops
from perfxlm_core.errors import GraphError, NoKernelError
from perfxlm_core.graph.ir import Graph, Node, Value, expand
from perfxlm_core.graph.memory import Lifetime, Placement, place
from perfxlm_core.ops.formats import Tensor, format_nbytes
from perfxlm_core.ops.types import concrete
from perfxlm_core.registry.device import (
    Buffer,
    Device,
    Launch,
    Operand,
    Program,
    kind_of,
    operand_view,
)
from perfxlm_core.registry.kernels import Attributes, Kernel, Query, Registry, Resolution, Site

log = logging.getLogger(__name__)


@dataclass
class Step:
    """One node of a plan.

    Attributes:
        node: the node.
        kernel: what runs it; None for a view, or for the reference on the host.
        how: "kernel", "view" or "reference".
        refusals: kernels that do not run it, each with its reason.
        dequantized: weights that are decoded on load because no kernel takes their format.
        scratch: bytes of scratch memory.
    """

    node: Node
    kernel: Kernel | None
    how: str
    refusals: tuple[tuple[str, str], ...] = ()
    dequantized: tuple[str, ...] = ()
    scratch: int = 0


@dataclass
class Plan:
    """A graph made ready for a device.

    Attributes:
        sizes: largest value of each symbol.
        steps: in the order in which they run.
        arena: where activations and scratch lie.
    """

    graph: Graph
    device: Device
    sizes: dict[str, int]
    steps: list[Step]
    arena: Placement = field(default_factory=lambda: Placement((), 0))
    lifetimes: list[Lifetime] = field(default_factory=list)
    packed_bytes: int = 0
    mapped_bytes: int = 0
    _slots: dict[Value, int] = field(default_factory=dict)
    _scratch: dict[int, int] = field(default_factory=dict)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the constants, each counted once, as they will be held: tied weights once."""
        decoded = {n for s in self.steps for n in s.dequantized}
        total = 0
        for value in self.graph.used_constants():
            assert value.constant is not None
            total += (
                format_nbytes(self.graph.dtype, value.constant.shape)
                if value.name in decoded
                else value.constant.nbytes
            )
        return total

    @property
    def cache_bytes(self) -> int:
        """Bytes of all caches."""
        return sum(format_nbytes(s.dtype, s.shape) for s in self.graph.states.values())

    def lay_out(self) -> None:
        """Place activations and scratch memory in the arena, the step's inputs in front."""
        self.lifetimes, self._slots, self._scratch = _lifetimes(self)
        self.arena = place(self.lifetimes, in_front=len(self.graph.inputs))

    def bind(self) -> Bound:
        """Take memory, pack weights, and make the program."""
        return _Binder(self).bind()

    def report(self) -> dict[str, Any]:
        """What `perfxlm inspect` prints, as JSON-able data."""
        return {
            "device": self.device.name,
            "dtype": self.graph.dtype,
            "sizes": dict(self.sizes),
            "memory": {
                "weights": self.weight_bytes,
                "arena": self.arena.nbytes,
                "kv_cache": self.cache_bytes,
                "total": self.weight_bytes + self.arena.nbytes + self.cache_bytes,
            },
            "nodes": [self._report_step(i, s) for i, s in enumerate(self.steps)],
            "caches": [
                {"name": s.name, "shape": list(s.shape), "dtype": s.dtype}
                for s in self.graph.states.values()
            ],
            "weights": [
                {"name": v.name, "shape": list(v.shape), "format": v.dtype, "bytes": c.nbytes}
                for v in self.graph.used_constants()
                if (c := v.constant) is not None
            ],
            "placements": [
                {"name": b.name, "offset": o, "bytes": b.nbytes, "first": b.first, "last": b.last}
                for b, o in zip(self.lifetimes, self.arena.offsets, strict=True)
            ],
        }

    def _report_step(self, index: int, step: Step) -> dict[str, Any]:
        node = step.node
        return {
            "index": index,
            "op": node.op.name,
            "scope": node.scope,
            "how": step.how,
            "kernel": step.kernel.name if step.kernel else None,
            "refusals": [{"kernel": k, "reason": r} for k, r in step.refusals],
            "dequantized": list(step.dequantized),
            "inputs": [v.name for _, v in node.arguments()],
            "outputs": [
                {"name": v.name, "shape": [str(d) for d in v.shape], "dtype": v.dtype}
                for v in node.outputs
            ],
            "scratch": step.scratch,
        }


@dataclass
class Bound:
    """A plan in memory.

    Attributes:
        plan: what it was made from.
        program: runs a step; takes the sizes of the symbols.
        operands: input and output values by name, placed.
        launches: what `program` runs: one for each step of the plan that is not a view.
        values: every value that flows, placed: inputs, caches, and outputs of nodes.
        arena: where activations and scratch memory lie.
    """

    plan: Plan
    program: Program
    operands: dict[str, Operand]
    launches: tuple[Launch, ...]
    values: dict[Value, Operand]
    arena: Buffer
    keep: list[Any] = field(default_factory=list)

    def view(self, name: str, sizes: Mapping[str, int] | None = None) -> Any:  # noqa: ANN401
        """The device's array of an input or output; at its largest unless sizes are given."""
        return operand_view(self.plan.device, self.operands[name], sizes or self.plan.sizes)


def decide(
    graph: Graph,
    device: Device,
    registry: Registry,
    sizes: Mapping[str, int],
    *,
    prefer: Mapping[str, str] | None = None,
) -> Plan:
    """Choose what runs each node; composites that no kernel takes are replaced by their bodies.

    Args:
        graph: rewritten in place where composites are expanded.
        device: where it will run.
        registry: kernels of the loaded plugins.
        sizes: largest value of each symbol.
        prefer: operator -> vendor, to settle ties.

    Raises:
        NoKernelError: nothing runs a node; lists each candidate with its reason.
        AmbiguousKernelError: see `Registry.resolve`.
    """
    chooser = _Chooser(graph, device, registry, dict(sizes), prefer)
    steps: list[Step] = []
    todo = list(reversed(graph.nodes))
    graph.nodes = []
    while todo:
        node = todo.pop()
        step = chooser.choose(node)
        if step is None:
            todo.extend(reversed(expand(graph, node, todo)))
            continue
        graph.nodes.append(node)
        steps.append(step)
    _warn(steps, device)
    return Plan(graph, device, dict(sizes), steps)


def _warn(steps: list[Step], device: Device) -> None:
    slow = sorted({s.node.op.name for s in steps if s.how == "reference"})
    if slow:
        log.warning(
            "%s has no kernel for %s: the NumPy reference runs them on the host, slowly",
            device.name,
            ", ".join(slow),
        )
    decoded = {n for s in steps for n in s.dequantized}
    if decoded:
        log.warning(
            "%s has no kernel for the format of %d weights: they are decoded on load and take "
            "more memory (see perfxlm inspect)",
            device.name,
            len(decoded),
        )


@dataclass
class _Chooser:
    graph: Graph
    device: Device
    registry: Registry
    sizes: dict[str, int]
    prefer: Mapping[str, str] | None

    def choose(self, node: Node) -> Step | None:
        """The step for a node; None if it must be expanded."""
        if node.op is ops.reshape:
            return Step(node, None, "view")
        found, decoded = self._resolve(node)
        if found.kernel is not None:
            return Step(
                node,
                found.kernel,
                "kernel",
                found.refusals,
                decoded,
                self._scratch(found.kernel, node),
            )
        if node.op.composite:
            return None
        if not self.device.host_visible and node.op.updates:
            reasons = "; ".join(f"{k}: {r}" for k, r in found.refusals) or "no kernel is known"
            raise NoKernelError(
                f"{node.op.name} in {node.scope or 'the graph'} has no kernel on "
                f"{self.device.name} ({reasons}), and it updates memory that only the device sees"
            )
        return Step(node, None, "reference", found.refusals)

    def _resolve(self, node: Node) -> tuple[Resolution, tuple[str, ...]]:
        constants = [p.name for p, v in node.arguments() if v.constant is not None]
        query = self._query(node, node.types(), constants)
        found = self.registry.resolve(query, self.prefer)
        quantized = {
            p.name: v.name
            for p, v in node.arguments()
            if v.constant is not None and v.constant.is_quantized
        }
        if found.kernel is not None or not quantized:
            return found, ()
        types = node.types()
        for name in quantized:
            types[name] = type(types[name])(types[name].shape, self.graph.dtype)
        again = self.registry.resolve(self._query(node, types, constants), self.prefer)
        if again.kernel is None:
            return found, ()
        return Resolution(again.kernel, found.refusals), tuple(quantized.values())

    def _query(self, node: Node, types: dict[str, Any], constants: list[str]) -> Query:
        return Query.of(node.op, types, node.attrs, constants, kind_of(self.device))

    def _scratch(self, kernel: Kernel, node: Node) -> int:
        if kernel.scratch is None:
            return 0
        query = self._query(node, node.types(), [])
        dims = {
            k: concrete(v, self.sizes) if isinstance(v, tuple) else concrete((v,), self.sizes)[0]
            for k, v in vars(query.dims).items()
        }
        return kernel.scratch(type(query.dims)(**dims), query.attrs)


def _root(value: Value, views: Mapping[Value, Value]) -> Value:
    while value in views:
        value = views[value]
    return value


def _views(steps: list[Step]) -> dict[Value, Value]:
    return {s.node.outputs[0]: s.node.inputs["x"] for s in steps if s.how == "view"}


def _lifetimes(plan: Plan) -> tuple[list[Lifetime], dict[Value, int], dict[int, int]]:
    """Lifetimes of everything in the arena, with the index of each value and step's scratch."""
    views = _views(plan.steps)
    first: dict[Value, int] = dict.fromkeys(plan.graph.inputs.values(), 0)
    last: dict[Value, int] = dict.fromkeys(plan.graph.inputs.values(), len(plan.steps))
    for index, step in enumerate(plan.steps):
        for _, value in step.node.arguments():
            root = _root(value, views)
            if root.constant is None and not root.state:
                last[root] = max(last.get(root, 0), index)
        if step.how != "view":
            for out in step.node.outputs:
                first[out] = index
                last.setdefault(out, index)
    for value in plan.graph.outputs:
        last[_root(value, views)] = len(plan.steps)
    blocks: list[Lifetime] = []
    slots: dict[Value, int] = {}
    for value, start in first.items():
        nbytes = format_nbytes(value.dtype, concrete(value.shape, plan.sizes))
        slots[value] = len(blocks)
        blocks.append(Lifetime(value.name, nbytes, start, last[value]))
    scratch: dict[int, int] = {}
    for index, step in enumerate(plan.steps):
        if step.scratch:
            scratch[index] = len(blocks)
            blocks.append(Lifetime(f"scratch of {step.node.op.name}", step.scratch, index, index))
    return blocks, slots, scratch


class _Binder:
    """Takes the memory of a plan and makes its launches."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.device = plan.device
        self.views = _views(plan.steps)
        self.arena = self.device.allocate(plan.arena.nbytes)
        self.caches = {
            s: self.device.allocate(format_nbytes(s.dtype, s.shape))
            for s in plan.graph.states.values()
        }
        self.uploaded: dict[tuple[str, str], Operand] = {}
        self.decoded: dict[str, Tensor] = {}

    def bind(self) -> Bound:
        launches = [
            self._launch(index, step)
            for index, step in enumerate(self.plan.steps)
            if step.how != "view"
        ]
        program = self.device.program(launches, tuple(self.plan.sizes))
        outward = [*self.plan.graph.inputs.values(), *self.plan.graph.outputs]
        operands = {v.name: self._operand(v) for v in outward}
        made = [v for step in self.plan.steps for v in step.node.outputs]
        flowing = [*self.plan.graph.inputs.values(), *self.plan.graph.states.values(), *made]
        values = {v: self._operand(v) for v in flowing if _root(v, self.views).constant is None}
        self.decoded.clear()
        keep = [self.caches, self.uploaded]
        return Bound(self.plan, program, operands, tuple(launches), values, self.arena, keep)

    def _operand(self, value: Value) -> Operand:
        root = _root(value, self.views)
        if root.state:
            return Operand(value.name, value.shape, value.dtype, self.caches[root], 0)
        if root.constant is not None:
            return self._upload(root.constant)
        offset = self.plan.arena.offsets[self.plan._slots[root]]
        return Operand(value.name, value.shape, value.dtype, self.arena, offset)

    def _upload(self, tensor: Tensor) -> Operand:
        """A plain constant in the device's memory; in place where the device sees the host's."""
        key = (tensor.name, tensor.format)
        if key not in self.uploaded:
            if self.device.host_visible:
                buffer = Buffer(tensor.data, tensor.nbytes)
                self.plan.mapped_bytes += tensor.nbytes
            else:
                buffer = self._pack(tensor.nbytes)
                view = self.device.view(buffer, 0, tensor.shape, tensor.format)
                self.device.copy_in(view, tensor.array())
                tensor.release()
            self.uploaded[key] = Operand(tensor.name, tensor.shape, tensor.format, buffer, 0)
        return self.uploaded[key]

    def _pack(self, nbytes: int) -> Buffer:
        self.plan.packed_bytes += nbytes
        return self.device.allocate(nbytes)

    def _constant(self, step: Step, value: Value) -> Tensor:
        assert value.constant is not None
        if value.name not in step.dequantized:
            return value.constant
        if value.name not in self.decoded:
            self.decoded[value.name] = value.constant.cast(self.plan.graph.dtype)
            value.constant.release()
        return self.decoded[value.name]

    def _launch(self, index: int, step: Step) -> Launch:
        if step.kernel is not None and step.kernel.two_phase:
            launch: Launch = step.kernel.function(self._site(index, step))
            if not callable(launch):
                raise GraphError(f"{step.kernel.name} bound {step.node.op.name} to {launch!r}")
            return launch
        given = {
            name: tuple(self._argument(step, v) for v in value)
            if isinstance(value, tuple)
            else self._argument(step, value)
            for name, value in step.node.inputs.items()
        }
        results = [self._operand(v) for v in step.node.outputs]
        if step.kernel is not None:
            return _simple(self.device, step, results, list(given.values()))
        return _reference(self.device, step, results, given)

    def _argument(self, step: Step, value: Value | None) -> Operand | Tensor | None:
        """An input as a simple kernel takes it: placed, or a quantized constant as it is."""
        if value is None:
            return None
        if value.constant is None:
            return self._operand(value)
        tensor = self._constant(step, value)
        return tensor if tensor.is_quantized else self._upload(tensor)

    def _given(self, step: Step, value: Any) -> Any:  # noqa: ANN401 - what `Site.operands` holds
        if isinstance(value, tuple):
            return tuple(self._given(step, v) for v in value)
        if not isinstance(value, Value):
            return value
        return self._operand(value) if value.constant is None else self._constant(step, value)

    def _site(self, index: int, step: Step) -> Site:
        operands = {n: self._given(step, v) for n, v in step.node.inputs.items()}
        for param, value in zip(step.node.op.outputs, step.node.outputs, strict=True):
            operands[param.name] = self._operand(value)
        scratch = None
        if index in self.plan._scratch:
            offset = self.plan.arena.offsets[self.plan._scratch[index]]
            scratch = Operand("scratch", (step.scratch,), "uint8", self.arena, offset)
        return Site(
            step.node.op,
            Attributes(**step.node.attrs),
            operands,
            scratch,
            self.device,
            self._pack,
        )


def _views_of(device: Device, given: Any, sizes: Mapping[str, int]) -> Any:  # noqa: ANN401
    if isinstance(given, tuple):
        return tuple(_views_of(device, g, sizes) for g in given)
    return operand_view(device, given, sizes) if isinstance(given, Operand) else given


def _simple(device: Device, step: Step, results: list[Operand], given: list[Any]) -> Launch:
    """A launch of a simple kernel; its views are made anew only when the sizes change."""
    assert step.kernel is not None
    function: Callable[..., Any] = step.kernel.function
    attrs = step.node.attrs
    key: tuple[int, ...] | None = None
    arguments: list[Any] = []

    def launch(sizes: Mapping[str, int]) -> None:
        nonlocal key, arguments
        now = tuple(sizes.values())
        if now != key:
            arguments = [_views_of(device, a, sizes) for a in (*results, *given)]
            key = now
        function(*arguments, **attrs)

    return launch


def _reference(device: Device, step: Step, results: list[Operand], given: dict[str, Any]) -> Launch:
    """The operator's own body on the host, with copies where the device has its own memory."""
    node = step.node

    def host(argument: Any, sizes: Mapping[str, int]) -> Any:  # noqa: ANN401
        view = _views_of(device, argument, sizes)
        if not isinstance(argument, Operand) or device.host_visible:
            return view
        from perfxlm_core.ops.types import numpy_dtype

        copy = np.empty(concrete(argument.shape, sizes), numpy_dtype(argument.dtype))
        device.copy_out(copy, view)
        return copy

    def launch(sizes: Mapping[str, int]) -> None:
        device.synchronize()
        arguments = {
            n: [host(a, sizes) for a in g] if isinstance(g, tuple) else host(g, sizes)
            for n, g in given.items()
        }
        out = node.op.fn(**arguments, **node.attrs)
        values = out if isinstance(out, tuple) else (out,)
        for operand, array in zip(results, values, strict=False):
            device.copy_in(operand_view(device, operand, sizes), np.ascontiguousarray(array))

    return launch
