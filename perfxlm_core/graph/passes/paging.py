"""From attention as a model means it to attention over the paged cache."""

from __future__ import annotations

from dataclasses import dataclass

from perfxlm_core import ops
from perfxlm_core.graph.ir import Graph, Node, Value
from perfxlm_core.ops.types import Dim, itemsize


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
        """Bytes of one token's key and value."""
        return self.kv_heads * (self.head_dim + self.v_head_dim) * itemsize(dtype)


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

    Args:
        block_size: tokens of a block.
        max_blocks: blocks of the longest sequence: width of the input `block_tables`.
        cache_dtype: what the caches store.
        blocks: blocks of each cache; `resize_caches` changes it once the memory is known.
    """
    seqs = Dim.symbol("seqs")
    nodes, graph.nodes = graph.nodes, []
    for node in nodes:
        if node.op is not ops.attention:
            graph.nodes.append(node)
            continue
        caches = _states(graph, node, (blocks, block_size), cache_dtype)
        k_cache, v_cache = caches
        store = graph.make(
            ops.store_kv,
            {
                "k": node.inputs["k"],
                "v": node.inputs["v"],
                "k_cache": k_cache,
                "v_cache": v_cache,
                "slot_mapping": graph.input("slot_mapping", (Dim.symbol("tokens"),), "int32"),
            },
            {},
        )
        attend = graph.make(
            ops.paged_attention,
            {
                "q": node.inputs["q"],
                "k_cache": k_cache,
                "v_cache": v_cache,
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


def _states(
    graph: Graph, node: Node, lead: tuple[int, int], cache_dtype: str
) -> tuple[Value, Value]:
    layer = node.attrs["layer"]
    k, v = (
        graph.state(f"cache.{layer}.{n}", (*lead, *node.inputs[n].shape[1:]), cache_dtype)
        for n in ("k", "v")
    )
    return k, v


def resize_caches(graph: Graph, blocks: int) -> None:
    """Give every cache `blocks` blocks."""
    for state in graph.states.values():
        state.type = type(state.type)((blocks, *state.shape[1:]), state.dtype)
