"""What a node must move and compute at least, from its definition and a step's sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from perfxlm_core.graph.ir import Node, Value
from perfxlm_core.ops.formats import format_nbytes
from perfxlm_core.ops.types import concrete

Sizes = Mapping[str, int]

_PRODUCTS = ("linear", "linear_add", "gated_linear", "qkv_rotary_store")
"""Operators whose inputs called `*weight` are matrices that `x` is multiplied with."""


@dataclass(frozen=True)
class Cost:
    """A launch's least work.

    Attributes:
        memory: bytes of weights and caches, which come from memory at every step.
        activations: bytes of inputs and outputs, which may stay in caches.
        operations: floating-point operations of products and sums; 0 where they never matter.
        arithmetic: kind of the operations that are allowed: "float32", or "int8" where activations
            beside a quantized weight may be rounded.
    """

    memory: int
    activations: int
    operations: int
    arithmetic: str = "float32"

    @property
    def nbytes(self) -> int:
        """All bytes."""
        return self.memory + self.activations


@dataclass(frozen=True)
class Ragged:
    """The sequences of a step: how many tokens each has in it, and how long each is with them."""

    counts: Sequence[int]
    lengths: Sequence[int]

    def visible(self, window: int | None) -> tuple[int, int]:
        """Keys that some token sees, and the sum of those that each token sees."""
        keys = pairs = 0
        for count, length in zip(self.counts, self.lengths, strict=True):
            if not count:
                continue
            first = length - count
            reach = [min(p + 1, window or p + 1) for p in range(first, length)]
            keys += min(length, count + (window or length) - 1)
            pairs += sum(reach)
        return keys, pairs


def cost_of(node: Node, sizes: Sizes, batch: Ragged) -> Cost:
    """The least work of a node in a step.

    Args:
        node: one that is not a view.
        sizes: of the symbols.
        batch: the step's sequences.
    """
    inputs = [v for _, v in node.arguments()]
    flows = [v for v in inputs if v.constant is None and not v.state]
    activations = sum(_nbytes(v, sizes) for v in [*flows, *node.outputs])
    constants = sum(v.constant.nbytes for v in inputs if v.constant is not None)
    name = node.op.name
    if name in ("paged_attention", "paged_attention_int8"):
        return _attention(node, batch, activations)
    if name == "embedding":
        return _rows_of(node.inputs["table"], node.outputs[0], sizes)
    if name == "take_rows":
        return Cost(0, 2 * _nbytes(node.outputs[0], sizes), 0)
    if name in ("store_kv", "store_kv_int8"):
        return Cost(_stored(node, sizes), activations, 0)
    if name in _PRODUCTS:
        operations, kind = _products(node, sizes)
        return Cost(constants, activations, operations, kind)
    return Cost(constants, activations, 0)


def _nbytes(value: Value, sizes: Sizes) -> int:
    return format_nbytes(value.dtype, concrete(value.shape, sizes))


def _rows_of(table: Value, out: Value, sizes: Sizes) -> Cost:
    rows = concrete(out.shape, sizes)[0]
    held = 0 if table.constant is None else table.constant.nbytes * rows // int(table.shape[0])
    return Cost(held, _nbytes(out, sizes), 0)


def _products(node: Node, sizes: Sizes) -> tuple[int, str]:
    """Operations of products with matrices, and their kind."""
    named = [v for p, v in node.arguments() if p.name.endswith("weight")]
    weights = [v for v in named if len(v.shape) == 2]
    rounded = not node.attrs.get("exact", True) and all(
        v.constant is not None and v.constant.is_quantized for v in weights
    )
    tokens = prod(concrete(node.inputs["x"].shape[:-1], sizes))
    products = tokens * sum(prod(map(int, v.shape)) for v in weights)
    return 2 * products, "int8" if rounded else "float32"


def _attention(node: Node, batch: Ragged, activations: int) -> Cost:
    q, k_cache, v_cache = (node.inputs[n] for n in ("q", "k_cache", "v_cache"))
    keys, pairs = batch.visible(node.attrs.get("window"))
    wide = int(k_cache.shape[-1]) + int(v_cache.shape[-1])
    caches = [v for p, v in node.arguments() if p.is_cache]
    row = sum(format_nbytes(c.dtype, tuple(map(int, c.shape[2:]))) for c in caches)
    return Cost(keys * row, activations, 2 * pairs * int(q.shape[-2]) * wide)


def _stored(node: Node, sizes: Sizes) -> int:
    total = 0
    for name in ("k", "v"):
        rows, cache = node.inputs[name], node.inputs[f"{name}_cache"]
        total += format_nbytes(cache.dtype, concrete(rows.shape, sizes))
        scales = node.inputs.get(f"{name}_scales")
        if scales is not None:
            total += format_nbytes(scales.dtype, concrete(rows.shape[:-1], sizes))
    return total
