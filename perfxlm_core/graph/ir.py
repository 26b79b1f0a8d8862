"""The graph: what a recipe builds, passes rewrite, and plans run.

Nodes are kept in the order in which they run. Operators that update their arguments (the caches)
make that order matter, so passes never reorder nodes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from perfxlm_core import ops
from perfxlm_core.errors import GraphError
from perfxlm_core.ops.formats import Tensor
from perfxlm_core.ops.spec import Op, Param, Symbolic, TensorType
from perfxlm_core.ops.types import Dim

Weights = Callable[[str], Tensor]
"""Finds a weight by its name in the checkpoint."""


@dataclass(eq=False)
class Value(Symbolic):
    """Something that flows: an input, a cache, a constant, or the output of a node.

    Attributes:
        name: unique in the graph.
        type: shape (symbols for what a step decides) and dtype.
        graph: the graph that it belongs to.
        constant: its data, if it has the same value in every step.
        state: whether it is a cache that lives across steps.
    """

    name: str
    type: TensorType
    graph: Graph = field(repr=False)
    constant: Tensor | None = field(default=None, repr=False)
    state: bool = False

    @property
    def shape(self) -> tuple[Any, ...]:
        """Lengths, symbols among them; raises GraphError when they are unknown."""
        if self.type.shape is None:
            raise GraphError(f"the shape of {self.name} is known only when the graph runs")
        return self.type.shape

    @property
    def dtype(self) -> str:
        """Name of the dtype or, for a constant, of its format."""
        return self.type.dtype

    def reshape(self, *shape: Any) -> Value:  # noqa: ANN401
        """The same elements under another shape; one length may be -1."""
        dims = shape[0] if len(shape) == 1 and isinstance(shape[0], tuple | list) else shape
        return ops.reshape(self, shape=tuple(dims))  # type: ignore[return-value]

    def __add__(self, other: Any) -> Value:  # noqa: ANN401
        if isinstance(other, int | float):
            return ops.scale(self, factor=1.0, offset=float(other))  # type: ignore[return-value]
        return ops.add(self, other)  # type: ignore[return-value]

    def __mul__(self, other: Any) -> Value:  # noqa: ANN401
        if isinstance(other, int | float):
            return ops.scale(self, factor=float(other))  # type: ignore[return-value]
        return ops.mul(self, other)  # type: ignore[return-value]

    __radd__ = __add__
    __rmul__ = __mul__

    def emit(
        self, node_op: Op[..., Any], inputs: Mapping[str, Any], attrs: Mapping[str, Any]
    ) -> Any:  # noqa: ANN401
        """Add a node to this value's graph."""
        return self.graph.add(node_op, inputs, attrs)


@dataclass(eq=False)
class Node:
    """An operator with its arguments.

    Attributes:
        op: the operator.
        inputs: param name -> value, None when left out, a tuple when variadic.
        attrs: attribute name -> value.
        outputs: values it gives, in the operator's order.
        scope: where in the model it was made, in the checkpoint's words.
    """

    op: Op[..., Any]
    inputs: dict[str, Any]
    attrs: dict[str, Any]
    outputs: tuple[Value, ...]
    scope: str = ""

    def arguments(self) -> Iterator[tuple[Param, Value]]:
        """Inputs that are there, each with its parameter; variadic ones one by one."""
        for param in self.op.params:
            given = self.inputs.get(param.name)
            for value in given if isinstance(given, tuple) else (given,):
                if value is not None:
                    yield param, value

    def replace_input(self, old: Value, new: Value) -> None:
        """Read `new` wherever the node reads `old`."""
        for name, given in self.inputs.items():
            if isinstance(given, tuple):
                self.inputs[name] = tuple(new if v is old else v for v in given)
            elif given is old:
                self.inputs[name] = new

    def types(self) -> dict[str, Any]:
        """Param name -> type of what is given (a list for a variadic one)."""
        return {
            name: [v.type for v in given]
            if isinstance(given, tuple)
            else (None if given is None else given.type)
            for name, given in self.inputs.items()
        }


class Graph:
    """A model as operators on named values.

    Args:
        weights: finds a checkpoint's tensors; without it `weight` gives float32 placeholders,
            and the graph can be looked at but not run.
        dtype: activation dtype.
    """

    def __init__(self, weights: Weights | None = None, *, dtype: str = "float32") -> None:
        self.dtype = dtype
        self.nodes: list[Node] = []
        self.inputs: dict[str, Value] = {}
        self.outputs: list[Value] = []
        self.states: dict[str, Value] = {}
        self.constants: dict[str, Value] = {}
        self.metadata: dict[str, str] = {}
        self._weights = weights
        self._scope: list[str] = []
        self._names: Counter[str] = Counter()

    # What recipes use

    @property
    def token_ids(self) -> Value:
        """Ids of the step's tokens, [tokens], int32."""
        return self.input("token_ids", (Dim.symbol("tokens"),), "int32")

    @property
    def positions(self) -> Value:
        """Position of each token in its sequence, [tokens], int32."""
        return self.input("positions", (Dim.symbol("tokens"),), "int32")

    @contextmanager
    def scope(self, *parts: Any) -> Iterator[None]:  # noqa: ANN401
        """Prefix weights' names with `parts`, joined by dots."""
        self._scope.extend(str(p) for p in parts)
        try:
            yield
        finally:
            del self._scope[len(self._scope) - len(parts) :]

    def weight(self, name: str, *shape: int) -> Value:
        """The checkpoint's tensor of this name inside the current scope.

        Raises:
            CheckpointError: the checkpoint has no such tensor.
            GraphError: its shape is another.
        """
        full = ".".join([*self._scope, name])
        if full in self.constants:
            return self._shaped(self.constants[full], shape)
        if self._weights is None:
            value = Value(full, TensorType(shape, "float32"), self)
        else:
            tensor = self._weights(full)
            value = Value(full, TensorType(tensor.shape, tensor.format), self, constant=tensor)
        self.constants[full] = value
        return self._shaped(value, shape)

    def constant(self, name: str, array: np.ndarray) -> Value:
        """A table that the recipe computed itself; one value for each name."""
        if name not in self.constants:
            tensor = Tensor.from_array(name, array)
            kind = TensorType(tensor.shape, tensor.format)
            self.constants[name] = Value(name, kind, self, constant=tensor)
        return self.constants[name]

    def _shaped(self, value: Value, shape: Sequence[int]) -> Value:
        if tuple(shape) != value.shape:
            raise GraphError(
                f"weight {value.name} has shape {value.shape} in the checkpoint, the recipe "
                f"expects {tuple(shape)}; the configuration and the weights do not belong together"
            )
        return value

    # What passes use

    def input(self, name: str, shape: tuple[Any, ...], dtype: str) -> Value:
        """The input called `name`, declared at first use."""
        if name not in self.inputs:
            self.inputs[name] = Value(name, TensorType(shape, dtype), self)
        return self.inputs[name]

    def state(self, name: str, shape: tuple[Any, ...], dtype: str) -> Value:
        """The cache called `name`, declared at first use."""
        if name not in self.states:
            self.states[name] = Value(name, TensorType(shape, dtype), self, state=True)
        return self.states[name]

    def value(self, name: str, kind: TensorType) -> Value:
        """A fresh value whose name starts with `name`."""
        self._names[name] += 1
        count = self._names[name]
        return Value(name if count == 1 else f"{name}_{count}", kind, self)

    def add(self, op: Op[..., Any], inputs: Mapping[str, Any], attrs: Mapping[str, Any]) -> Any:  # noqa: ANN401
        """Append a node; returns its output, a tuple of them, or None if it only updates."""
        node = self.make(op, inputs, attrs)
        self.nodes.append(node)
        if not node.outputs:
            return None
        return node.outputs[0] if len(op.outputs) == 1 and len(node.outputs) == 1 else node.outputs

    def make(self, op: Op[..., Any], inputs: Mapping[str, Any], attrs: Mapping[str, Any]) -> Node:
        """A node, checked and typed, that is not in the graph yet."""
        taken: dict[str, Any] = {}
        for param in op.params:
            given = inputs.get(param.name)
            if isinstance(given, list | tuple):
                taken[param.name] = tuple(self._as_value(op, param, v) for v in given)
            else:
                taken[param.name] = None if given is None else self._as_value(op, param, given)
        scope = ".".join(self._scope)
        node = Node(op, taken, dict(attrs), (), scope)
        try:
            types = op.infer(node.types(), node.attrs)
        except ValueError as error:
            raise GraphError(f"in {scope or 'the graph'}: {error}") from error
        stem = f"{scope}.{op.name}" if scope else op.name
        node.outputs = tuple(self.value(stem, t) for t in types)
        return node

    def _as_value(self, op: Op[..., Any], param: Param, given: Any) -> Value:  # noqa: ANN401
        if isinstance(given, np.ndarray):
            given = self.constant(f"{op.name}.{param.name}.{len(self.constants)}", given)
        if not isinstance(given, Value) or given.graph is not self:
            raise GraphError(f"{op.name}: {param.name} is {given!r}, want a value of this graph")
        if given.constant is not None and param.dtype.name == "T" and given.dtype != self.dtype:
            return self._cast(given)
        return given

    def _cast(self, value: Value) -> Value:
        """A norm's weight or a bias, in the activation dtype."""
        name = f"{value.name}:{self.dtype}"
        if name not in self.constants:
            assert value.constant is not None
            tensor = value.constant.cast(self.dtype)
            kind = TensorType(tensor.shape, tensor.format)
            self.constants[name] = Value(name, kind, self, constant=tensor)
        return self.constants[name]

    def users(self) -> dict[Value, list[Node]]:
        """Value -> nodes that read it, in order."""
        found: dict[Value, list[Node]] = {}
        for node in self.nodes:
            for _, value in node.arguments():
                readers = found.setdefault(value, [])
                if node not in readers:
                    readers.append(node)
        return found

    def producers(self) -> dict[Value, Node]:
        """Value -> the node that gives it."""
        return {out: node for node in self.nodes for out in node.outputs}

    def replace_value(self, old: Value, new: Value) -> None:
        """Read `new` wherever `old` is read, outputs of the graph included."""
        for node in self.nodes:
            node.replace_input(old, new)
        self.outputs = [new if v is old else v for v in self.outputs]

    def used_constants(self) -> list[Value]:
        """Constants that some node reads, each once, in order of first use."""
        seen: dict[Value, None] = {}
        for node in self.nodes:
            for _, value in node.arguments():
                if value.constant is not None:
                    seen.setdefault(value)
        return list(seen)

    def drop_unused(self) -> None:
        """Remove nodes whose outputs nobody reads, and constants that are left over."""
        needed: set[Value] = set(self.outputs)
        kept: list[Node] = []
        for node in reversed(self.nodes):
            if node.op.updates or any(v in needed for v in node.outputs):
                kept.append(node)
                needed.update(v for _, v in node.arguments())
        self.nodes = kept[::-1]
        self.constants = {n: v for n, v in self.constants.items() if v in needed}

    def __repr__(self) -> str:
        counts = Counter(n.op.name for n in self.nodes)
        inside = ", ".join(f"{c} {n}" for n, c in counts.most_common())
        return f"Graph({len(self.nodes)} nodes: {inside})"


def expand(graph: Graph, node: Node, readers: Iterable[Node] = ()) -> list[Node]:
    """The nodes of a composite's body, which give the same outputs as `node`.

    Args:
        graph: whose nodes and outputs are made to read the new values.
        node: not, or no longer, among the graph's nodes.
        readers: further nodes to be made to read them.

    Raises:
        GraphError: the operator has no body made of operators.
    """
    if not node.op.composite:
        raise GraphError(f"{node.op.name} is not a composite; it has no body of operators")
    before = len(graph.nodes)
    result = node.op.fn(**node.inputs, **node.attrs)
    body = graph.nodes[before:]
    del graph.nodes[before:]
    results: Iterable[Any] = result if isinstance(result, tuple) else (result,)
    for old, new in zip(node.outputs, results, strict=True):
        graph.replace_value(old, new)
        for reader in readers:
            reader.replace_input(old, new)
    for inner in body:
        inner.scope = node.scope
    return body
