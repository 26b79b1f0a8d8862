"""The walk over an ONNX graph: names to values, nodes to operators, functions to their bodies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from perfxlm_core.errors import CheckpointError, GraphError, PerfxlmError
from perfxlm_core.graph.ir import Graph, Node, Value
from perfxlm_core.graph.onnx.folding import dimensions, is_static, known_inputs, stays_small
from perfxlm_core.graph.onnx.functions import body_of
from perfxlm_core.graph.onnx.initializers import DTYPES, Initializers, dtype_of
from perfxlm_core.graph.onnx.rules import RULES, operator_for
from perfxlm_core.ops import tensor_shape
from perfxlm_core.ops.formats import Tensor
from perfxlm_core.ops.spec import Op, TensorType
from perfxlm_core.ops.types import Dim

if TYPE_CHECKING:
    from onnx import (
        AttributeProto,
        FunctionProto,
        GraphProto,
        ModelProto,
        NodeProto,
        ValueInfoProto,
    )

DEPTH_LIMIT = 32
"""Functions inside of functions."""
NODE_LIMIT = 1_000_000
"""Nodes of a graph, bodies of functions expanded."""
DTYPE_ATTRIBUTES = frozenset({"to", "dtype", "output_dtype", "precision", "softmax_precision"})
"""Attributes that ONNX gives as the number of a dtype and we as its name."""


@dataclass
class Call:
    """A node about to be converted.

    Attributes:
        importer: makes nodes and constants.
        proto: the node.
        version: of the operator set that its domain has here.
        inputs: its arguments; None for one that is left out.
        attrs: its attributes as Python values, tensors as arrays.
        scope: names visible here.
    """

    importer: Importer
    proto: NodeProto
    version: int
    inputs: list[Value | None]
    attrs: dict[str, Any]
    scope: Scope

    @property
    def name(self) -> str:
        """For messages: operator, and the node's name or first output."""
        label = self.proto.name or next((o for o in self.proto.output if o), "?")
        domain = f"{self.proto.domain}." if self.proto.domain else ""
        return f"{domain}{self.proto.op_type} ({label})"

    def input(self, index: int) -> Value:
        """The argument at `index`; raises GraphError when it is left out."""
        value = self.inputs[index] if index < len(self.inputs) else None
        if value is None:
            raise GraphError(f"{self.name} lacks its input {index}")
        return value

    def optional(self, index: int) -> Value | None:
        """The argument at `index`, if there is one."""
        return self.inputs[index] if index < len(self.inputs) else None

    def wants(self, index: int) -> bool:
        """Whether anything may read the output at `index`."""
        return index < len(self.proto.output) and bool(self.proto.output[index])

    def emit(self, op: Op[..., Any], *inputs: Any, **attrs: Any) -> Any:  # noqa: ANN401
        """Add a node; returns its output, or a tuple of them."""
        return self.importer.emit(op, inputs, attrs, self.name)

    def constant(self, array: Any) -> Value:  # noqa: ANN401
        """A constant that the conversion needs."""
        return self.importer.constant(np.asarray(array), self.proto.op_type)


@dataclass
class Scope:
    """Names of one graph or function body, over those around it."""

    versions: Mapping[str, int]
    around: Scope | None = None
    depth: int = 0
    values: dict[str, Value | None] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def find(self, name: str) -> Value | None:
        """The value called `name`; raises GraphError if nothing gives it."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.values:
                return scope.values[name]
            scope = scope.around
        raise GraphError(f"{name} is read before anything gives it")


class Importer:
    """Makes the graph of one model."""

    def __init__(self, model: ModelProto, initializers: Initializers) -> None:
        self.model = model
        self.initializers = initializers
        self.built = Graph()
        self.functions: dict[tuple[str, str, str], FunctionProto] = {
            (f.domain, f.name, f.overload): f for f in model.functions
        }
        self._seen_as: dict[tuple[Value, str], Value] = {}

    def graph(self) -> Graph:
        """Convert the model's graph."""
        proto = self.model.graph
        scope = Scope(_versions(self.model.opset_import))
        with _said_of("the model's inputs and constants"):
            self._initializers(proto, scope)
            for info in proto.input:
                if info.name not in scope.values:
                    scope.values[info.name] = self._input(info)
        self.nodes(proto.node, scope)
        outputs = [(info.name, scope.find(info.name)) for info in proto.output]
        empty = [name for name, value in outputs if value is None]
        if empty:
            raise GraphError(f"the model's outputs {', '.join(empty)} are never computed")
        self.built.outputs = [value for _, value in outputs if value is not None]
        self.built.drop_unused()
        return self.built

    def _initializers(self, proto: GraphProto, scope: Scope) -> None:
        if proto.sparse_initializer:
            raise GraphError("the model has sparse constants, which we do not read")
        for one in proto.initializer:
            scope.values[one.name] = self.tensor(self.initializers.read(one, one.name))

    def _input(self, info: ValueInfoProto) -> Value:
        if not info.type.HasField("tensor_type"):
            kind = info.type.WhichOneof("value")
            raise GraphError(f"input {info.name} is a {kind}, not a tensor, which we do not take")
        kind = info.type.tensor_type
        dtype = dtype_of(kind.elem_type, f"input {info.name}")
        shape: Any = None
        if kind.HasField("shape"):
            shape = tuple(
                int(d.dim_value)
                if d.HasField("dim_value")
                else Dim.symbol(d.dim_param or f"{info.name}.{i}")
                for i, d in enumerate(kind.shape.dim)
            )
        return self.built.input(info.name, shape, dtype)

    # Making values and nodes

    def tensor(self, tensor: Tensor) -> Value:
        """A constant of the graph, under a name of its own."""
        kind = TensorType(tensor.shape, tensor.format)
        value = self.built.value(tensor.name, kind)
        value.constant = tensor
        self.built.constants[value.name] = value
        return value

    def shared(self, value: Value, tensor: Tensor) -> Value:
        """The constant `value` seen as `tensor`: the same one at every call."""
        key = (value, tensor.format)
        if key not in self._seen_as:
            self._seen_as[key] = self.tensor(tensor)
        return self._seen_as[key]

    def constant(self, array: np.ndarray[Any, Any], name: str) -> Value:
        """A constant of the graph made from an array."""
        return self.tensor(Tensor.from_array(f"{name}.constant", array))

    def emit(
        self, op: Op[..., Any], inputs: Sequence[Any], attrs: Mapping[str, Any], where: str
    ) -> Any:  # noqa: ANN401
        """Add a node, or calculate it if its inputs are small constants."""
        given = _by_name(op, inputs, where)
        known = known_inputs(op, given)
        node = Node(op, given, {**_defaults(op), **attrs}, (), where)
        types = _infer(node, where)
        if known is not None and stays_small(op, types, known):
            return self._fold(node, known, where)
        if op is tensor_shape.shape_of and is_static(given["x"]):
            return self.constant(dimensions(given["x"].shape, node.attrs), "shape")
        if len(self.built.nodes) >= NODE_LIMIT:
            raise GraphError(f"the model has more than {NODE_LIMIT} nodes once it is expanded")
        node.outputs = tuple(self.built.value(f"{op.name}", t) for t in types)
        self.built.nodes.append(node)
        return (
            node.outputs[0] if len(op.outputs) == 1 and not op.outputs[0].variadic else node.outputs
        )

    def _fold(self, node: Node, known: Mapping[str, Any], where: str) -> Any:  # noqa: ANN401
        try:
            with np.errstate(all="ignore"):
                result = node.op(**known, **node.attrs)
        except (ValueError, TypeError, IndexError, OverflowError, ZeroDivisionError) as error:
            raise GraphError(f"{where}: {error}") from error
        if isinstance(result, tuple | list):
            return tuple(self.constant(np.asarray(r), node.op.name) for r in result)
        return self.constant(np.asarray(result), node.op.name)

    # Walking

    def nodes(self, protos: Sequence[NodeProto], scope: Scope) -> None:
        """Convert nodes in order, their outputs into `scope`."""
        for proto in protos:
            with _said_of(f"{proto.op_type} ({proto.name or list(proto.output)})"):
                results = self.convert(self._call(proto, scope))
                names = list(proto.output)
                if any(names[len(results) :]):
                    raise GraphError(f"it gives {len(results)} outputs, the model wants {names}")
            scope.values.update({n: r for n, r in zip(names, results, strict=False) if n})

    def _call(self, proto: NodeProto, scope: Scope) -> Call:
        domain = "" if proto.domain == "ai.onnx" else proto.domain
        version = scope.versions.get(domain)
        if version is None and domain:
            version = 1
        elif version is None:
            raise GraphError(f"{proto.op_type}: the model names no version of its operator set")
        inputs = [scope.find(n) if n else None for n in proto.input]
        attrs: dict[str, Any] = {}
        for attribute in proto.attribute:
            if attribute.ref_attr_name:
                if attribute.ref_attr_name in scope.attributes:
                    attrs[attribute.name] = scope.attributes[attribute.ref_attr_name]
            else:
                attrs[attribute.name] = self._attribute(attribute, proto)
        return Call(self, proto, version, inputs, attrs, scope)

    def _attribute(self, attribute: AttributeProto, proto: NodeProto) -> Any:  # noqa: ANN401
        import onnx

        kinds = onnx.AttributeProto
        where = f"attribute {attribute.name} of {proto.op_type}"
        if attribute.type == kinds.TENSOR:
            return self.initializers.read(attribute.t, where).array()
        if attribute.type == kinds.GRAPH:
            return attribute.g
        if attribute.type not in (
            kinds.FLOAT, kinds.INT, kinds.STRING, kinds.FLOATS, kinds.INTS, kinds.STRINGS
        ):  # fmt: skip
            raise GraphError(f"{where} is of a kind that we do not read")
        value = onnx.helper.get_attribute_value(attribute)
        try:
            if isinstance(value, bytes):
                return value.decode()
            if attribute.type == kinds.STRINGS:
                return [v.decode() for v in value]
        except UnicodeDecodeError:
            raise GraphError(f"{where} is not text") from None
        return list(value) if attribute.type in (kinds.FLOATS, kinds.INTS) else value

    def convert(self, call: Call) -> tuple[Value | None, ...]:
        """The values that a node gives: by a rule, by its operator, or by its function's body."""
        domain = "" if call.proto.domain == "ai.onnx" else call.proto.domain
        key = (domain, call.proto.op_type)
        overload = getattr(call.proto, "overload", "")
        own = self.functions.get((*key, overload))
        if key in RULES and (own is None or domain):
            results = RULES[key](call)
            if results is not None:
                return results
        if own is None and not domain:
            op = operator_for(call)
            if op is not None:
                return _tuple(self._plain(op, call))
        return self._expand(own if own is not None else body_of(call), call)

    def _plain(self, op: Op[..., Any], call: Call) -> Any:  # noqa: ANN401
        assert op.onnx is not None
        renamed = {op.onnx.attributes.get(n, n): n for n in op.attributes}
        attrs = {renamed[n]: _named(n, v) for n, v in call.attrs.items()}
        return call.emit(op, *call.inputs, **attrs)

    def _expand(self, body: FunctionProto, call: Call) -> tuple[Value | None, ...]:
        if call.scope.depth >= DEPTH_LIMIT:
            raise GraphError(f"{call.name}: functions are nested more than {DEPTH_LIMIT} deep")
        if len(call.inputs) > len(body.input):
            raise GraphError(f"{call.name} has {len(call.inputs)} inputs, want {len(body.input)}")
        known = {*body.attribute, *(a.name for a in body.attribute_proto)}
        if not set(call.attrs) <= known:
            raise GraphError(
                f"{call.name} has {', '.join(sorted(set(call.attrs) - known))}, which the function "
                "does not take"
            )
        versions = {**call.scope.versions, **_versions(body.opset_import)}
        attributes = {a.name: self._attribute(a, call.proto) for a in body.attribute_proto}
        attributes.update(call.attrs)
        scope = Scope(versions, depth=call.scope.depth + 1, attributes=attributes)
        scope.values.update(dict.fromkeys(body.input))
        scope.values.update(dict(zip(body.input, call.inputs, strict=False)))
        self.nodes(body.node, scope)
        return tuple(scope.values.get(n) for n in body.output)

    def branch(self, proto: GraphProto, call: Call) -> tuple[Value | None, ...]:
        """A nested graph in place: the branch of an If that is known to be taken."""
        around = call.scope
        if around.depth >= DEPTH_LIMIT:
            raise GraphError(f"{call.name}: graphs are nested more than {DEPTH_LIMIT} deep")
        scope = Scope(around.versions, around, around.depth + 1, attributes=around.attributes)
        self._initializers(proto, scope)
        self.nodes(proto.node, scope)
        return tuple(scope.find(info.name) for info in proto.output)


_UNEXPECTED = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What a damaged model makes Python, NumPy or the `onnx` package raise."""


@contextmanager
def _said_of(where: str) -> Iterator[None]:
    """Errors inside as GraphError that says where; a model is untrusted."""
    try:
        yield
    except (GraphError, CheckpointError):
        raise
    except _UNEXPECTED as error:
        kind = "" if isinstance(error, PerfxlmError) else f"{type(error).__name__}: "
        raise GraphError(f"{where}: {kind}{error}") from error


def _versions(imports: Any) -> dict[str, int]:  # noqa: ANN401
    return {"" if e.domain == "ai.onnx" else e.domain: e.version for e in imports}


def _tuple(result: Any) -> tuple[Value | None, ...]:  # noqa: ANN401
    return result if isinstance(result, tuple) else (result,)


def _named(name: str, value: Any) -> Any:  # noqa: ANN401
    if name in DTYPE_ATTRIBUTES and isinstance(value, int):
        return DTYPES.get(value)
    return value


def _defaults(op: Op[..., Any]) -> dict[str, Any]:
    import inspect

    return {n: d for n, d in op.attributes.items() if d is not inspect.Parameter.empty}


def _by_name(op: Op[..., Any], inputs: Sequence[Any], where: str) -> dict[str, Any]:
    if op.params and op.params[0].variadic:
        return {op.params[0].name: tuple(inputs)}
    if any(i is not None for i in inputs[len(op.params) :]):
        raise GraphError(f"{where} has {len(inputs)} inputs, want at most {len(op.params)}")
    names = [p.name for p in op.params]
    return {**dict.fromkeys(names), **dict(zip(names, inputs, strict=False))}


def _infer(node: Node, where: str) -> tuple[TensorType, ...]:
    """Output types; a disagreement of lengths known only by name is left to the run."""
    try:
        return node.op.infer(node.types(), node.attrs)
    except (ValueError, TypeError, IndexError, KeyError) as error:
        types = {k: _without_symbols(t) for k, t in node.types().items()}
        try:
            return node.op.infer(types, node.attrs)
        except (ValueError, TypeError, IndexError, KeyError):
            raise GraphError(f"{where}: {error}") from error


def _without_symbols(kind: Any) -> Any:  # noqa: ANN401
    if isinstance(kind, list):
        return [_without_symbols(k) for k in kind]
    if kind is None or kind.shape is None or all(isinstance(n, int) for n in kind.shape):
        return kind
    return TensorType(None, kind.dtype)
