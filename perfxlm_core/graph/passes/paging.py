"""From attention as a model means it to attention over the paged cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from perfxlm_core import ops
from perfxlm_core.graph.ir import Graph, Node, Value
from perfxlm_core.ops.types import Dim, itemsize

SCALES = "float32"
"""Dtype of the scales beside a cache of int8."""


@dataclass(frozen=True)
class CacheLayer:
    """What one layer keeps for each token.

    Attributes:
        kv_heads: heads of keys and values.
        head_dim: elements of a key.
        v_head_dim: elements of a value.
    """

    layer: int
    kv_heads: int
    head_dim: int
    v_head_dim: int

    def bytes_per_token(self, dtype: str) -> int:
        """Bytes of one token's key and value, and of their scales where codes have them."""
        scales = 2 * itemsize(SCALES) if dtype == "int8" else 0
        return self.kv_heads * ((self.head_dim + self.v_head_dim) * itemsize(dtype) + scales)


def cache_layers(graph: Graph) -> list[CacheLayer]:
    """The cache that each attention of the graph needs, in order of layers."""
    found = {}
    for node in graph.nodes:
        if node.op is ops.attention:
            k, v = node.inputs["k"].shape, node.inputs["v"].shape
            layer = node.attrs["layer"]
            found[layer] = CacheLayer(layer, k[1], k[2], v[2])
    return [found[i] for i in sorted(found)]


def page_attention(
    graph: Graph, *, block_size: int, max_blocks: int, cache_dtype: str, blocks: int = 1
) -> None:
    """Replace each `attention` by `store_kv` and `paged_attention` over states of the graph.

    A cache of int8 has scales beside it, and operators of its own: `store_kv_int8` and
    `paged_attention_int8`.

    Args:
        block_size: tokens of a block.
        max_blocks: blocks of the longest sequence: width of the input `block_tables`.
        cache_dtype: what the caches store.
        blocks: blocks of each cache; `resize_caches` changes it once the memory is known.
    """
    seqs = Dim.symbol("seqs")
    store_op: Any = ops.store_kv_int8 if cache_dtype == "int8" else ops.store_kv
    attend_op: Any = ops.paged_attention_int8 if cache_dtype == "int8" else ops.paged_attention
    nodes, graph.nodes = graph.nodes, []
    for node in nodes:
        if node.op is not ops.attention:
            graph.nodes.append(node)
            continue
        caches = _states(graph, node, (blocks, block_size), cache_dtype)
        store = graph.make(
            store_op,
            {
                "k": node.inputs["k"],
                "v": node.inputs["v"],
                **caches,
                "slot_mapping": graph.input("slot_mapping", (Dim.symbol("tokens"),), "int32"),
            },
            {},
        )
        attend = graph.make(
            attend_op,
            {
                "q": node.inputs["q"],
                **caches,
                "block_tables": graph.input("block_tables", (seqs, max_blocks), "int32"),
                "seq_lens": graph.input("seq_lens", (seqs,), "int32"),
                "query_starts": graph.input("query_starts", (seqs + 1,), "int32"),
                "sinks": node.inputs["sinks"],
            },
            {k: v for k, v in node.attrs.items() if k != "layer"},
        )
        attend.outputs = node.outputs
        for new in (store, attend):
            new.scope = node.scope
            graph.nodes.append(new)


def _states(graph: Graph, node: Node, lead: tuple[int, int], cache_dtype: str) -> dict[str, Value]:
    """The caches of a layer, by the names of the operators' parameters."""
    layer = node.attrs["layer"]
    made = {}
    for n in ("k", "v"):
        shape = (*lead, *node.inputs[n].shape[1:])
        made[f"{n}_cache"] = graph.state(f"cache.{layer}.{n}", shape, cache_dtype)
        if cache_dtype == "int8":
            made[f"{n}_scales"] = graph.state(f"cache.{layer}.{n}_scales", shape[:-1], SCALES)
    return made


def resize_caches(graph: Graph, blocks: int) -> None:
    """Give every cache `blocks` blocks."""
    for state in graph.states.values():
        state.type = type(state.type)((blocks, *state.shape[1:]), state.dtype)
