"""A portable decoder turned back into what a recipe builds, so that it can be planned and served.

In the file a value is [batch, sequence, width] and attention carries its cache along; a recipe
knows flat tokens, and attention without a cache. `as_recipe` walks the nodes once and says for each
value what it is in the recipe's terms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from types import MappingProxyType
from typing import Any

import numpy as np

from perfxlm_core import ops
from perfxlm_core.errors import GraphError
from perfxlm_core.graph.ir import Graph, Node, Value
from perfxlm_core.ops import (
    elementwise,
    quantization,
    tensor_attention,
    tensor_index,
    tensor_linear,
    tensor_math,
    tensor_normalization,
    tensor_shape,
)
from perfxlm_core.ops.formats import Tensor
from perfxlm_core.ops.spec import Op, TensorType


@dataclass(frozen=True)
class Part:
    """Something that is no value of a recipe, but part of one.

    Attributes:
        kind: "ids", "positions", "shape", "cache", "turned", "angles", "cos", "sin", "sigmoid" or
            "bent".
        of: what it was made of.
        factor: number that it was multiplied by.
    """

    kind: str
    of: Any = None
    factor: float = 1.0


def as_recipe(graph: Graph) -> Graph:
    """The graph of a decoder that `load_onnx` read, in a recipe's terms.

    Understood is what `save_onnx` writes, and graphs of other exporters that use the same
    operators: Attention with past and present keys and values, rotary positions, RMSNormalization.

    Raises:
        GraphError: the graph is something else; names the node.
    """
    if not any(n.op is tensor_attention.dense_attention for n in graph.nodes):
        raise GraphError("the graph has no attention with a cache; it is not a decoder")
    return _Reader(graph).run()


class _Reader:
    def __init__(self, graph: Graph) -> None:
        self.old = graph
        attention = (n for n in graph.nodes if n.op is tensor_attention.dense_attention)
        self.new = Graph(dtype=next(attention).outputs[0].dtype)
        self.known: dict[Value, Any] = {}
        self.tables: dict[Any, tuple[Value, Value]] = {}
        self.layers = 0

    def run(self) -> Graph:
        for name, value in self.old.inputs.items():
            self.known[value] = self._input(name, value)
        for node in self.old.nodes:
            found = self._convert(node)
            results = found if isinstance(found, tuple) else (found,)
            self.known.update(zip(node.outputs, results, strict=False))
        logits = self.get(self.old.outputs[0])
        if not isinstance(logits, Value):
            raise GraphError("the first output of the graph is not logits")
        self.new.outputs = [logits]
        self.new.drop_unused()
        return self.new

    def _input(self, name: str, value: Value) -> Part:
        shape = value.type.shape
        if shape is not None and len(shape) == 4:
            return Part("cache")
        if name == "input_ids":
            return Part("ids", self.new.token_ids)
        if name == "position_ids":
            return Part("positions", self.new.positions)
        raise GraphError(
            f"input {name} is not one of a portable decoder: input_ids, position_ids, and caches"
        )

    def _convert(self, node: Node) -> Any:  # noqa: ANN401
        rule = RULES.get(node.op)
        given = [self.get(v) for _, v in node.arguments()]
        if given and all(_is_constant(g) for g in given) and node.op not in KEPT:
            return self._calculate(node)
        try:
            found = None if rule is None else rule(self, node)
        except (ValueError, IndexError, TypeError, AttributeError) as error:
            raise GraphError(f"{node.op.name} ({node.scope}): {error}") from error
        if found is None:
            raise GraphError(
                f"{node.op.name} ({node.scope}) is not part of a decoder as we know them; the "
                "graph can be interpreted, but not served"
            )
        return found

    def _calculate(self, node: Node) -> Any:  # noqa: ANN401
        """A node of constants alone, at once."""
        inputs = {
            name: None if value is None else _array(self.get(value))
            for name, value in node.inputs.items()
            if not isinstance(value, tuple)
        }
        if len(inputs) < len(node.inputs):
            inputs.update(
                {n: [_array(self.get(v)) for v in vs] for n, vs in node.inputs.items()
                 if isinstance(vs, tuple)}
            )  # fmt: skip
        result = node.op(**inputs, **node.attrs)
        results = result if isinstance(result, tuple | list) else (result,)
        return tuple(
            self.constant(out.name, np.asarray(r))
            for out, r in zip(node.outputs, results, strict=True)
        )

    def get(self, value: Value | None) -> Any:  # noqa: ANN401
        """What a value of the file is: a value of the recipe, a part of one, or None."""
        if value is None:
            return None
        if value not in self.known:
            if value.constant is None:
                raise GraphError(f"{value.name} is read before anything gives it")
            self.known[value] = self.tensor(value.name, value.constant)
        return self.known[value]

    def tensor(self, name: str, tensor: Tensor) -> Value:
        """A constant of the recipe."""
        value = Value(name, TensorType(tensor.shape, tensor.format), self.new, constant=tensor)
        self.new.constants[name] = value
        return value

    def constant(self, name: str, array: np.ndarray[Any, Any]) -> Value:
        """A constant of the recipe made from an array."""
        return self.tensor(name, Tensor.from_array(name, array))

    def value(self, node: Node, name: str) -> Value:
        """An argument that must be a value of the recipe."""
        found = self.get(node.inputs[name])
        if not isinstance(found, Value):
            raise GraphError(f"{node.op.name} ({node.scope}): {name} is {found}, want activations")
        return found

    def heads(self, node: Node, name: str, count: int | None) -> Value:
        """An argument as [tokens, heads, size]."""
        x = self.value(node, name)
        if len(x.shape) == 3:
            return x
        if not count:
            raise GraphError(f"{node.op.name} ({node.scope}) does not say how many heads it has")
        return x.reshape(-1, count, x.shape[1] // count)

    def table(self, cos: Any, sin: Any) -> tuple[Value, Value]:  # noqa: ANN401
        """Cosines and sines of the step's positions."""
        key = (cos, sin)
        if key not in self.tables:
            if not (isinstance(cos, Part) and isinstance(sin, Part) and cos.of is sin.of):
                raise GraphError("cosines and sines are not of the same angles")
            self.tables[key] = ops.rotary_table(  # type: ignore[assignment]
                self.new.positions, cos.of, attention_factor=cos.factor
            )
        return self.tables[key]

    def picked(self, cos: Any, sin: Any) -> tuple[Value, Value]:  # noqa: ANN401
        """Rows of tables that the file holds."""
        key = (cos, sin, "rows")
        if key not in self.tables:
            rows = self.new.positions
            self.tables[key] = (ops.take_rows(cos, rows), ops.take_rows(sin, rows))  # type: ignore[assignment]
        return self.tables[key]


def _is_constant(found: Any) -> bool:  # noqa: ANN401
    return isinstance(found, Value) and found.constant is not None


def _array(found: Any) -> Any:  # noqa: ANN401
    tensor = found.constant
    return tensor.float32() if tensor.is_quantized else tensor.array()


def _number(found: Any) -> float | None:  # noqa: ANN401
    """The number that a constant of one element is."""
    if not _is_constant(found) or prod(found.shape) != 1:
        return None
    return float(np.asarray(_array(found), np.float64).reshape(()))


def _flat(x: Value) -> Value:
    return x if len(x.shape) == 2 else x.reshape(-1, prod(x.shape[1:]))


def _passed(reader: _Reader, node: Node) -> Any:  # noqa: ANN401
    """Casts and new axes of ids, positions and weights change nothing in a recipe."""
    x = reader.get(next(iter(node.inputs.values())))
    if isinstance(x, Value) and node.attrs.get("to") == x.dtype:
        return x  # rows of a table, which a recipe's embedding gives in the activation dtype
    return x if isinstance(x, Part) or _is_constant(x) else None


def _reshape(reader: _Reader, node: Node) -> Any:  # noqa: ANN401
    x, shape = reader.get(node.inputs["x"]), reader.get(node.inputs["shape"])
    if isinstance(x, Part) or isinstance(shape, Part):
        return x
    want = [int(n) for n in _array(shape)]
    if want[:2] not in ([0, 0], [0, -1]) or len(want) not in (3, 4):
        return None
    return x.reshape(-1, *want[2:])


def _shape(reader: _Reader, node: Node) -> Any:  # noqa: ANN401
    return Part("shape")


def _embedding(reader: _Reader, node: Node) -> Any:  # noqa: ANN401
    names = ("token_ids", "table") if node.op is ops.embedding else ("indices", "x")
    ids, table = (reader.get(node.inputs[n]) for n in names)
    if not isinstance(ids, Part) or ids.kind != "ids" or not _is_constant(table):
        return None
    return ops.embedding(reader.new.token_ids, table, dtype=reader.new.dtype)


def _linear(reader: _Reader, node: Node) -> Any:  # noqa: ANN401
    return ops.linear(_flat(reader.value(node, "x")), reader.get(node.inputs["weight"]))


def _matmul(reader: _Reader, node: Node) -> Any:  # noqa: ANN401
    x, weight = _flat(reader.value(node, "a")), reader.get(node.inputs["b"])
    if isinstance(weight, Part) and weight.kind == "turned":
        return ops.linear(x, weight.of)
    if not _is_constant(weight) or len(weight.shape) != 2:
        return None
    turned = reader.constant(f"{weight.name}.turned", np.ascontiguousarray(_array(weight).T))
    return ops.linear(x, turned)


def _transpose(reader: _Reader, node: Node) -> Any:  # noqa: ANN401
    x = reader.get(node.inputs["x"])
    perm = node.attrs["perm"]
    matrix = _is_constant(x) and len(x.shape) == 2 and (perm is None or list(perm) == [1, 0])
    return Part("turned", x) if matrix else None


def _add(reader: _Reader, node: Node) -> Any:  # noqa: ANN401
    a, b = (reader.get(node.inputs[n]) for n in "ab")
    a, b = (b, a) if _is_constant(a) else (a, b)
    if not isinstance(a, Value) or not isinstance(b, Value):
        return None
    number = _number(b)
    if number is not None:
        return a + number
    if not _is_constant(b):
        return a + b
    made = reader.new.producers()[a]
    if made.op is not ops.linear or made.inputs["bias"] is not None:
        return None
    return ops.linear(made.inputs["x"], made.inputs["weight"], b)


def _multiply(reader: _Reader, node: Node) -> Any:  # noqa: ANN401
    a, b = (reader.get(node.inputs[n]) for n in "ab")
    for x, y in ((a, b), (b, a)):
        number = _number(y)
        if isinstance(x, Part):
            if x.kind == "positions" and _is_constant(y):
                return Part("angles", y)
            if x.kind in ("cos", "sin") and number is not None:
                return Part(x.kind, x.of, x.factor * number)
            if x.kind == "sigmoid" and x.of is y:
                return ops.silu(y)
            if x.kind == "bent" and number == x.factor:
                return ops.soft_cap(x.of, cap=x.factor)
        elif number is not None:
            return x * number
    if not isinstance(a, Value) or not isinstance(b, Value):
        return None
    return _gate(reader, a, b)


def _gate(reader: _Reader, a: Value, b: Value) -> Any:  # noqa: ANN401
    producers = reader.new.producers()
    for active, up in ((a, b), (b, a)):
        made = producers.get(active)
        if made is not None and made.op is ops.silu:
            return ops.silu_and_mul(made.inputs["x"], up)
        if made is not None and made.op is ops.gelu:
            return ops.gelu_and_mul(made.inputs["x"], up, **made.attrs)
    return a * b


def _wave(kind: str) -> Callable[[_Reader, Node], Any]:
    def rule(reader: _Reader, node: Node) -> Any:  # noqa: ANN401
        x = reader.get(node.inputs["x"])
        return Part(kind, x.of) if isinstance(x, Part) and x.kind == "angles" else None

    return rule


def _divide(reader: _Reader, node: Node) -> Any:  # noqa: ANN401
    number = _number(reader.get(node.inputs["b"]))
    return None if number is None else Part("small", reader.value(node, "a"), number)


def _tanh(reader: _Reader, node: Node) -> Any:  # noqa: ANN401
    x = reader.get(node.inputs["x"])
    small = isinstance(x, Part) and x.kind == "small"
    return Part("bent", x.of, x.factor) if small else None


def _sigmoid(reader: _Reader, node: Node) -> Any:  # noqa: ANN401
    return Part("sigmoid", reader.value(node, "x"))


def _swish(reader: _Reader, node: Node) -> Any:  # noqa: ANN401
    return ops.silu(reader.value(node, "x")) if node.attrs["alpha"] == 1 else None


def _gelu(reader: _Reader, node: Node) -> Any:  # noqa: ANN401
    return ops.gelu(reader.value(node, "x"), **node.attrs)


def _rms_norm(reader: _Reader, node: Node) -> Any:  # noqa: ANN401
    if node.attrs["axis"] not in (-1, 2 if len(reader.value(node, "x").shape) == 2 else 3):
        return None
    weight = reader.get(node.inputs["scale"])
    return ops.rms_norm(reader.value(node, "x"), weight, eps=node.attrs["epsilon"])


def _layer_norm(reader: _Reader, node: Node) -> Any:  # noqa: ANN401
    if node.attrs["axis"] not in (-1, 2):
        return None
    weight, bias = reader.get(node.inputs["scale"]), reader.get(node.inputs["bias"])
    y = ops.layer_norm(reader.value(node, "x"), weight, bias, eps=node.attrs["epsilon"])
    return y, Part("unused"), Part("unused")


def _rotary(reader: _Reader, node: Node) -> Any:  # noqa: ANN401
    x = reader.heads(node, "x", node.attrs["num_heads"])
    cos, sin = (reader.get(node.inputs[n]) for n in ("cos", "sin"))
    if node.inputs["positions"] is None:
        cos, sin = reader.table(cos, sin)
    else:
        cos, sin = reader.picked(cos, sin)
    turned = node.attrs["rotary_embedding_dim"] or x.shape[2]
    if turned != 2 * cos.shape[1]:
        return None
    return ops.rotary_embedding(x, cos, sin, interleaved=bool(node.attrs["interleaved"]))


def _attention(reader: _Reader, node: Node) -> Any:  # noqa: ANN401
    a, left = node.attrs, node.attrs["left_window_size"]
    caches = [reader.get(node.inputs[n]) for n in ("past_key", "past_value")]
    plain = node.inputs["mask"] is None and node.inputs["key_lengths"] is None
    cached = all(isinstance(c, Part) and c.kind == "cache" for c in caches)
    if not (plain and cached and a["is_causal"] and a["right_window_size"] in (-1, 0)):
        return None
    q = reader.heads(node, "q", a["q_num_heads"])
    k, v = (reader.heads(node, n, a["kv_num_heads"]) for n in "kv")
    y = ops.attention(
        q, k, v, layer=reader.layers, scale=a["scale"], window=None if left < 0 else left + 1,
        soft_cap=a["softcap"] or None,
    )  # fmt: skip
    reader.layers += 1
    return _flat(y), Part("cache"), Part("cache"), Part("unused")  # type: ignore[arg-type]


KEPT = frozenset({tensor_shape.transpose, quantization.decode_blocks})
"""Not calculated even of constants: weights stay as their file has them."""

RULES: Mapping[Op[..., Any], Callable[[_Reader, Node], Any]] = MappingProxyType(
    {
        elementwise.gelu: _gelu,
        ops.embedding: _embedding,
        ops.linear: _linear,
        quantization.cast: _passed,
        quantization.decode_blocks: _passed,
        tensor_attention.dense_attention: _attention,
        tensor_attention.rotary_positions: _rotary,
        tensor_index.gather: _embedding,
        tensor_linear.matmul: _matmul,
        tensor_math.broadcast_add: _add,
        tensor_math.cos: _wave("cos"),
        tensor_math.divide: _divide,
        tensor_math.multiply: _multiply,
        tensor_math.sigmoid: _sigmoid,
        tensor_math.sin: _wave("sin"),
        tensor_math.swish: _swish,
        tensor_math.tanh: _tanh,
        tensor_normalization.layer_normalization: _layer_norm,
        tensor_normalization.rms_normalization: _rms_norm,
        tensor_shape.concat: _shape,
        tensor_shape.reshape_to: _reshape,
        tensor_shape.shape_of: _shape,
        tensor_shape.transpose: _transpose,
        tensor_shape.unsqueeze: _passed,
    }
)
"""What each operator of the file is in a recipe."""
