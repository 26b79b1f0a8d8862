"""Recipe graphs in ONNX's terms: flat tokens become a batch of sequences.

Inside a recipe a value is [tokens, ...]; in the file it is [batch, sequence, width], all axes after
the first laid flat, which is the form that Attention and RotaryEmbedding take heads in. So the
recipe's reshapes of heads cost no node.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from perfxlm_core import ops
from perfxlm_core.errors import GraphError
from perfxlm_core.graph.ir import Graph, Node, Value
from perfxlm_core.graph.onnx.block_functions import DOMAIN
from perfxlm_core.graph.onnx.initializers import CODES
from perfxlm_core.graph.onnx.weights import (
    WeightFiles,
    blocks_of,
    initializer,
    packed,
    stays_quantized,
)
from perfxlm_core.ops.formats import FORMATS, Tensor
from perfxlm_core.ops.spec import Op
from perfxlm_core.ops.types import numpy_dtype

if TYPE_CHECKING:
    from onnx import NodeProto, TensorProto

BATCHED = (24, 25)
"""Operator sets that are written: 25 only for windows of attention, 24 runs in more places."""


class Lowering:
    """Writes the nodes of one recipe graph.

    Args:
        graph: as the recipe built it, attention still whole.
        form: what becomes of quantized weights.
        files: where constants go.
    """

    def __init__(self, graph: Graph, form: str, files: WeightFiles) -> None:
        self.graph = graph
        self.form = form
        self.files = files
        self.nodes: list[NodeProto] = []
        self.initializers: dict[str, TensorProto] = {}
        self.formats: set[str] = set()
        self.caches: list[Node] = []
        self.decoded: list[str] = []
        self.shapes: dict[str, tuple[str | int, ...]] = {}
        self.opset = BATCHED[any(n.attrs.get("window") is not None for n in graph.nodes)]
        self._names: dict[Value, str] = {}
        self._made: dict[str, str] = {}

    def run(self) -> str:
        """Lower every node; returns the name of the logits."""
        for name, value in self.graph.inputs.items():
            if name not in ("token_ids", "positions"):
                raise GraphError(f"the graph has an input {name}, which a portable model lacks")
            self._names[value] = "input_ids" if name == "token_ids" else "position_ids"
        for node in self.graph.nodes:
            rule = RULES.get(node.op)
            if rule is None:
                raise GraphError(
                    f"{node.op.name} in {node.scope or 'the graph'} has no portable ONNX form; "
                    "export the graph as its recipe builds it, before any pass"
                )
            rule(self, node)
        return self.name(self.graph.outputs[0])

    def give(self, value: Value, name: str) -> None:
        """Call a node's output `name` in the file."""
        self._names[value] = name
        self.shapes[name] = ("batch", "sequence", prod(value.shape[1:]))

    def name(self, value: Value) -> str:
        """What a value is called in the file."""
        if value in self._names:
            return self._names[value]
        if value.constant is None:
            raise GraphError(f"{value.name} is read before anything gives it")
        self._names[value] = self.dense(value)
        return self._names[value]

    def emit(
        self,
        kind: str,
        inputs: list[str],
        output: str,
        domain: str = "",
        **attrs: Any,  # noqa: ANN401
    ) -> str:
        """Add a node of one output; returns its name."""
        self.node(kind, inputs, [output], domain, **attrs)
        return output

    def node(
        self,
        kind: str,
        inputs: list[str],
        outputs: list[str],
        domain: str = "",
        **attrs: Any,  # noqa: ANN401
    ) -> None:
        """Add a node."""
        from onnx import helper

        given = {k: v for k, v in attrs.items() if v is not None}
        self.nodes.append(
            helper.make_node(kind, inputs, outputs, outputs[0], domain=domain, **given)
        )

    def once(self, key: str, make: Callable[[], str]) -> str:
        """The name that `make` gives, made at the first call with this key."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def number(self, value: Any, dtype: str) -> str:  # noqa: ANN401
        """A small constant of the file."""
        tensor = Tensor.from_array(
            f"constant.{dtype}.{value}", np.asarray(value, numpy_dtype(dtype))
        )
        return self.add(tensor.name, tensor)

    def add(self, name: str, tensor: Tensor) -> str:
        """A constant as an initializer, each name once."""
        if name not in self.initializers:
            self.initializers[name] = initializer(tensor, self.files, name)
        return name

    def dense(self, value: Value) -> str:
        """A constant as numbers of the activation dtype, cast where it is used if need be."""
        tensor = constant(value)
        if tensor.is_quantized and stays_quantized(tensor, self.form):
            return self.once(f"{value.name}/dense", lambda: self._dequantize(value.name, tensor))
        if tensor.is_quantized:
            self.decoded.append(f"{value.name} ({tensor.format})")
            tensor = tensor.cast("float32")
        name = self.add(value.name, tensor)
        if tensor.format == self.graph.dtype or tensor.format.startswith(("int", "uint", "bool")):
            return name
        return self.cast(name, self.graph.dtype)

    def cast(self, name: str, dtype: str) -> str:
        """A value in another float dtype."""
        return self.once(
            f"{name}/{dtype}",
            lambda: self.emit("Cast", [name], f"{name}.{dtype}", to=CODES[dtype]),
        )

    def _dequantize(self, name: str, tensor: Tensor) -> str:
        if self.form == "quantized":
            self.formats.add(tensor.format)
            blocks = self.add(name, tensor)
            dense = self.emit(f"Dequantize_{tensor.format}", [blocks], f"{name}.decoded", DOMAIN)
        else:
            dense = self._dequantize_linear(name, tensor)
        return dense if self.graph.dtype == "float32" else self.cast(dense, self.graph.dtype)

    def _dequantize_linear(self, name: str, tensor: Tensor) -> str:
        codes, scales, *minima = blocks_of(tensor)
        kind = {"q4_0": "int4", "q4_1": "uint4", "q8_0": "int8"}[tensor.format]
        self.initializers[name] = packed(name, kind, codes, self.files)
        scale = self.add(f"{name}.scale", Tensor.from_array(f"{name}.scale", scales))
        size = FORMATS[tensor.format].block_size
        out = self.emit(
            "DequantizeLinear", [name, scale], f"{name}.scaled", axis=1, block_size=size
        )
        if not minima:
            return out
        rows, groups = scales.shape
        low = Tensor.from_array(f"{name}.minimum", minima[0].reshape(rows, groups, 1))
        split = self.number([rows, groups, size], "int64")
        apart = self.emit("Reshape", [out, split], f"{name}.groups")
        above = self.emit("Add", [apart, self.add(low.name, low)], f"{name}.shifted")
        whole = self.number(list(tensor.shape), "int64")
        return self.emit("Reshape", [above, whole], f"{name}.decoded")


def constant(value: Value) -> Tensor:
    """The data of a value that is a constant; raises GraphError if it is not."""
    if value.constant is None:
        raise GraphError(
            f"{value.name} is computed or has no data; a model can be written only with weights"
        )
    return value.constant


def _give(low: Lowering, node: Node, name: str) -> None:
    low.give(node.outputs[0], name)


def _out(node: Node) -> str:
    return node.outputs[0].name


def _embedding(low: Lowering, node: Node) -> None:
    table, ids = node.inputs["table"], low.name(node.inputs["token_ids"])
    tensor = constant(table)
    if low.form == "quantized" and stays_quantized(tensor, low.form):
        low.formats.add(tensor.format)
        blocks = low.add(table.name, tensor)
        name = low.emit(f"Embedding_{tensor.format}", [ids, blocks], _out(node), DOMAIN)
        name = name if low.graph.dtype == "float32" else low.cast(name, low.graph.dtype)
        return _give(low, node, name)
    if tensor.is_quantized or tensor.format == low.graph.dtype:
        return _give(low, node, low.emit("Gather", [low.name(table), ids], _out(node), axis=0))
    rows = low.emit("Gather", [low.add(table.name, tensor), ids], f"{_out(node)}.rows", axis=0)
    return _give(low, node, low.cast(rows, low.graph.dtype))


def _linear(low: Lowering, node: Node) -> None:
    x, weight, bias = low.name(node.inputs["x"]), node.inputs["weight"], node.inputs["bias"]
    tensor = constant(weight)
    product = _out(node) if bias is None else f"{_out(node)}.product"
    if (
        low.form == "quantized"
        and low.graph.dtype == "float32"
        and stays_quantized(tensor, low.form)
    ):
        low.formats.add(tensor.format)
        blocks = low.add(weight.name, tensor)
        low.emit(f"Linear_{tensor.format}", [x, blocks], product, DOMAIN)
    else:
        dense = low.name(weight)
        turned = low.once(
            f"{weight.name}/turned",
            lambda: low.emit("Transpose", [dense], f"{weight.name}.turned", perm=[1, 0]),
        )
        low.emit("MatMul", [x, turned], product)
    if bias is not None:
        low.emit("Add", [product, low.name(bias)], _out(node))
    _give(low, node, _out(node))


def _rotary_table(low: Lowering, node: Node) -> None:
    out = _out(node)
    positions = low.cast(low.name(node.inputs["positions"]), "float32")
    last = low.number([-1], "int64")
    column = low.emit("Unsqueeze", [positions, last], f"{out}.positions")
    inverse = node.inputs["inverse_frequencies"]
    frequencies = low.add(inverse.name, constant(inverse))
    angles = low.emit("Mul", [column, frequencies], f"{out}.angles")
    factor = node.attrs["attention_factor"]
    for value, kind in zip(node.outputs, ("Cos", "Sin"), strict=True):
        name = low.emit(kind, [angles], value.name)
        if factor != 1:
            scale = low.number(factor, "float32")
            name = low.emit("Mul", [name, scale], f"{value.name}.scaled")
        if low.graph.dtype != "float32":
            name = low.cast(name, low.graph.dtype)
        low.give(value, name)


def _rotary_embedding(low: Lowering, node: Node) -> None:
    x, cos = node.inputs["x"], node.inputs["cos"]
    _, heads, size = x.shape
    turned = 2 * cos.shape[1]
    name = low.emit(
        "RotaryEmbedding", [low.name(x), low.name(cos), low.name(node.inputs["sin"])], _out(node),
        num_heads=heads, interleaved=int(node.attrs["interleaved"]),
        rotary_embedding_dim=turned if turned < size else None,
    )  # fmt: skip
    _give(low, node, name)


def _attention(low: Lowering, node: Node) -> None:
    if node.inputs["sinks"] is not None:
        raise GraphError(f"{node.scope}: attention sinks cannot be written in standard ONNX")
    layer, window = node.attrs["layer"], node.attrs["window"]
    q, k, v = (node.inputs[n] for n in "qkv")
    low.caches.append(node)
    low.node(
        "Attention",
        [*(low.name(x) for x in (q, k, v)), "", *cache_names("past_key_values", layer)],
        [_out(node), *cache_names("present", layer)],
        q_num_heads=q.shape[1], kv_num_heads=k.shape[1], is_causal=1, scale=node.attrs["scale"],
        softcap=node.attrs["soft_cap"], left_window_size=None if window is None else window - 1,
    )  # fmt: skip
    _give(low, node, _out(node))


def cache_names(stem: str, layer: int) -> list[str]:
    """Names of a layer's keys and values."""
    return [f"{stem}.{layer}.key", f"{stem}.{layer}.value"]


def _normalize(kind: str) -> Callable[[Lowering, Node], None]:
    def rule(low: Lowering, node: Node) -> None:
        x, out = node.inputs["x"], _out(node)
        inputs = [low.name(x), low.name(node.inputs["weight"])]
        if node.inputs.get("bias") is not None:
            inputs.append(low.name(node.inputs["bias"]))
        flat = len(x.shape) == 2
        if not flat:  # each head by itself
            apart = low.number([0, 0, *x.shape[1:]], "int64")
            inputs[0] = low.emit("Reshape", [inputs[0], apart], f"{out}.heads")
        name = low.emit(
            kind, inputs, out if flat else f"{out}.normal", axis=-1, epsilon=node.attrs["eps"]
        )
        if not flat:
            together = low.number([0, 0, prod(x.shape[1:])], "int64")
            name = low.emit("Reshape", [name, together], out)
        _give(low, node, name)

    return rule


def _binary(kind: str) -> Callable[[Lowering, Node], None]:
    def rule(low: Lowering, node: Node) -> None:
        _give(low, node, low.emit(kind, [low.name(node.inputs[n]) for n in "ab"], _out(node)))

    return rule


def _swish(low: Lowering, x: str, out: str) -> str:
    """Swish where runtimes have it, its two parts elsewhere."""
    if low.opset == BATCHED[0]:
        return low.emit("Swish", [x], out)
    return low.emit("Mul", [x, low.emit("Sigmoid", [x], f"{out}.sigmoid")], out)


def _silu(low: Lowering, node: Node) -> None:
    _give(low, node, _swish(low, low.name(node.inputs["x"]), _out(node)))


def _silu_and_mul(low: Lowering, node: Node) -> None:
    gate, up = low.name(node.inputs["gate"]), low.name(node.inputs["up"])
    active = _swish(low, gate, f"{_out(node)}.swish")
    _give(low, node, low.emit("Mul", [active, up], _out(node)))


def _gelu(low: Lowering, node: Node) -> None:
    form = node.attrs["approximate"]
    name = low.emit("Gelu", [low.name(node.inputs["x"])], _out(node), approximate=form)
    _give(low, node, name)


def _gelu_and_mul(low: Lowering, node: Node) -> None:
    gate, up = low.name(node.inputs["gate"]), low.name(node.inputs["up"])
    form = node.attrs["approximate"]
    active = low.emit("Gelu", [gate], f"{_out(node)}.gelu", approximate=form)
    _give(low, node, low.emit("Mul", [active, up], _out(node)))


def _scale(low: Lowering, node: Node) -> None:
    name, dtype = low.name(node.inputs["x"]), low.graph.dtype
    if node.attrs["factor"] != 1:
        factor = low.number(node.attrs["factor"], dtype)
        name = low.emit("Mul", [name, factor], f"{_out(node)}.product")
    if node.attrs["offset"] != 0:
        name = low.emit("Add", [name, low.number(node.attrs["offset"], dtype)], _out(node))
    _give(low, node, name)


def _soft_cap(low: Lowering, node: Node) -> None:
    cap = low.number(node.attrs["cap"], low.graph.dtype)
    small = low.emit("Div", [low.name(node.inputs["x"]), cap], f"{_out(node)}.small")
    bent = low.emit("Tanh", [small], f"{_out(node)}.bent")
    _give(low, node, low.emit("Mul", [bent, cap], _out(node)))


def _reshape(low: Lowering, node: Node) -> None:
    x, out = node.inputs["x"], node.outputs[0]
    if x.shape[0] != out.shape[0]:
        raise GraphError(
            f"{node.scope}: reshape of {x.shape} to {out.shape} mixes tokens of different "
            "sequences; a batched model cannot do that"
        )
    _give(low, node, low.name(x))


RULES: Mapping[Op[..., Any], Callable[[Lowering, Node], None]] = MappingProxyType(
    {
        ops.add: _binary("Add"),
        ops.attention: _attention,
        ops.embedding: _embedding,
        ops.gelu: _gelu,
        ops.gelu_and_mul: _gelu_and_mul,
        ops.layer_norm: _normalize("LayerNormalization"),
        ops.linear: _linear,
        ops.mul: _binary("Mul"),
        ops.reshape: _reshape,
        ops.rms_norm: _normalize("RMSNormalization"),
        ops.rotary_embedding: _rotary_embedding,
        ops.rotary_table: _rotary_table,
        ops.scale: _scale,
        ops.silu: _silu,
        ops.silu_and_mul: _silu_and_mul,
        ops.soft_cap: _soft_cap,
    }
)
"""How each operator of recipes is written."""
