"""Chains of operators into composites, where the device has a kernel for the composite."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from perfxlm_core import ops
from perfxlm_core.graph.ir import Graph, Node, Value

Accepts = Callable[[Node], bool]
"""Whether the device has a kernel for a node."""


def fuse(graph: Graph, accepts: Accepts) -> None:
    """Replace chains by `qkv_rotary_store`, `gated_linear` and `linear_add`.

    Only values that nothing else reads are fused away, so no work is done twice. What the device
    refuses stays as it is.

    Args:
        graph: with paged attention; rewritten in place.
        accepts: asked once for each node that a chain could become.
    """
    fuser = _Fuser(graph, accepts)
    fuser.run(ops.store_kv, fuser.before_attention)
    fuser.run(ops.silu_and_mul, fuser.gated)
    fuser.run(ops.gelu_and_mul, fuser.gated)
    fuser.run(ops.add, fuser.added)


@dataclass
class _Fuser:
    graph: Graph
    accepts: Accepts
    producers: dict[Value, Node] = field(default_factory=dict)
    users: dict[Value, list[Node]] = field(default_factory=dict)

    def run(self, root: Any, match: Callable[[Node], Iterator[tuple[Node, list[Node]]]]) -> None:  # noqa: ANN401
        """Try each node of an operator as the last one of a chain.

        `match` gives composites, the largest first, each with the nodes that it stands for; the
        composite takes the place of the root.
        """
        self._look()
        for node in [n for n in self.graph.nodes if n.op is root]:
            for made, gone in match(node):
                if self.accepts(made):
                    self._replace(node, made, gone)
                    self._look()
                    break

    def _look(self) -> None:
        """Who gives and who reads each value, as the graph is now."""
        self.producers, self.users = self.graph.producers(), self.graph.users()

    def _replace(self, root: Node, made: Node, gone: list[Node]) -> None:
        made.scope = root.scope
        self.graph.nodes[self.graph.nodes.index(root)] = made
        drop = {id(n) for n in gone}
        self.graph.nodes = [n for n in self.graph.nodes if id(n) not in drop]

    def _alone(self, value: Value | None, *readers: Node) -> Node | None:
        """The node that gives a value which only these nodes read."""
        if value is None or value in self.graph.outputs:
            return None
        node = self.producers.get(value)
        read = self.users.get(value, [])
        if node is None or len(node.outputs) != 1 or any(r not in readers for r in read):
            return None
        return node

    def _linear(self, value: Value | None, reader: Node) -> Node | None:
        node = self._alone(value, reader)
        return node if node is not None and node.op is ops.linear else None

    def _norm(self, value: Value, readers: tuple[Node, ...]) -> Node | None:
        """The norm whose result only these linear layers read."""
        node = self._alone(value, *readers)
        return node if node is not None and node.op is ops.rms_norm else None

    # linear + add

    def added(self, root: Node) -> Iterator[tuple[Node, list[Node]]]:
        """`a + linear(x)`."""
        a, b = root.inputs["a"], root.inputs["b"]
        for value, residual in ((b, a), (a, b)):
            node = self._linear(value, root)
            if node is None or value is residual:
                continue
            inputs = {**node.inputs, "residual": residual}
            made = self.graph.make(ops.linear_add, inputs, {"exact": node.attrs["exact"]})
            made.outputs = root.outputs
            yield made, [node]

    # norm + gate + up + activation

    def gated(self, root: Node) -> Iterator[tuple[Node, list[Node]]]:
        """`act(linear(y)) * linear(y)`, with the norm that gives `y` or without."""
        gate = self._linear(root.inputs["gate"], root)
        up = self._linear(root.inputs["up"], root)
        if gate is None or up is None or gate is up or not _alike(gate, up):
            return
        linears = (gate, up)
        inputs = {
            "gate_weight": gate.inputs["weight"], "gate_bias": gate.inputs["bias"],
            "up_weight": up.inputs["weight"], "up_bias": up.inputs["bias"],
        }  # fmt: skip
        attrs = {"activation": _activation(root), "exact": gate.attrs["exact"]}
        for given, extra, gone in self._with_norm(gate.inputs["x"], linears):
            made = self.graph.make(ops.gated_linear, {**inputs, **given}, {**attrs, **extra})
            made.outputs = root.outputs
            yield made, [*linears, *gone]

    def _with_norm(
        self, value: Value, readers: tuple[Node, ...]
    ) -> Iterator[tuple[dict[str, Any], dict[str, Any], list[Node]]]:
        """Inputs, attributes and nodes with the norm before linear layers, then without."""
        norm = self._norm(value, readers)
        if norm is not None:
            inputs = {"x": norm.inputs["x"], "norm_weight": norm.inputs["weight"]}
            yield inputs, {"eps": norm.attrs["eps"]}, [norm]
        yield {"x": value, "norm_weight": None}, {"eps": 1e-6}, []

    # norm + query, key, value + rotation + store

    def before_attention(self, root: Node) -> Iterator[tuple[Node, list[Node]]]:
        """What gives the keys and values of a `store_kv`, and the queries of its attention."""
        attend = self._attention(root)
        if attend is None:
            return
        q = self._rotated(attend.inputs["q"], attend)
        k = self._rotated(root.inputs["k"], root)
        v = self._split(root.inputs["v"], root)
        if q is None or k is None or v is None or not _turned_alike(q, k):
            return
        linears = (q["linear"], k["linear"], v["linear"])
        if not _alike(*linears):
            return
        inputs = self._inputs(root, q, k, v)
        attrs = {
            "head_eps": next((p["norm"].attrs["eps"] for p in (q, k) if "norm" in p), 1e-6),
            "interleaved": k["rotary"].attrs["interleaved"],
            "exact": k["linear"].attrs["exact"],
        }
        chains = [n for part in (q, k, v) for n in part.values()]
        for given, extra, gone in self._with_norm(linears[0].inputs["x"], linears):
            made = self.graph.make(ops.qkv_rotary_store, {**inputs, **given}, {**attrs, **extra})
            made.outputs = (attend.inputs["q"],)
            yield made, [*chains, *gone]

    def _attention(self, store: Node) -> Node | None:
        """The attention that reads the caches which a node writes."""
        cache = store.inputs["k_cache"]
        found = [n for n in self.users.get(cache, ()) if n.op is ops.paged_attention]
        return found[0] if len(found) == 1 else None

    def _inputs(
        self, store: Node, q: Mapping[str, Node], k: Mapping[str, Node], v: Mapping[str, Node]
    ) -> dict[str, Any]:
        found = {n: store.inputs[n] for n in ("k_cache", "v_cache", "slot_mapping")}
        found |= {n: k["rotary"].inputs[n] for n in ("cos", "sin")}
        for name, part in (("q", q), ("k", k), ("v", v)):
            found[f"{name}_weight"] = part["linear"].inputs["weight"]
            found[f"{name}_bias"] = part["linear"].inputs["bias"]
            if name != "v":
                norm = part.get("norm")
                found[f"{name}_norm_weight"] = None if norm is None else norm.inputs["weight"]
        return found

    def _rotated(self, value: Value, reader: Node) -> dict[str, Node] | None:
        """`rotary(norm(reshape(linear)))`, the norm optional."""
        rotary = self._alone(value, reader)
        if rotary is None or rotary.op is not ops.rotary_embedding:
            return None
        found, inner, last = {"rotary": rotary}, rotary.inputs["x"], rotary
        norm = self._alone(inner, rotary)
        if norm is not None and norm.op is ops.rms_norm:
            found["norm"], inner, last = norm, norm.inputs["x"], norm
        below = self._split(inner, last)
        return None if below is None else {**found, **below}

    def _split(self, value: Value, reader: Node) -> dict[str, Node] | None:
        """`reshape(linear)`, [tokens, features] into heads."""
        view = self._alone(value, reader)
        if view is None or view.op is not ops.reshape or len(value.shape) != 3:
            return None
        source = view.inputs["x"]
        node = self._linear(source, view)
        if node is None or source.shape[0] != value.shape[0]:
            return None
        return {"view": view, "linear": node}


def _alike(*nodes: Node) -> bool:
    """Whether linear layers read the same value, [tokens, features], with the same precision."""
    first = nodes[0]
    same = all(
        n.inputs["x"] is first.inputs["x"] and n.attrs["exact"] == first.attrs["exact"]
        for n in nodes
    )
    return same and len({id(n) for n in nodes}) == len(nodes)


def _turned_alike(q: Mapping[str, Node], k: Mapping[str, Node]) -> bool:
    a, b = q["rotary"], k["rotary"]
    same = all(a.inputs[n] is b.inputs[n] for n in ("cos", "sin")) and a.attrs == b.attrs
    norms = [p["norm"].attrs["eps"] for p in (q, k) if "norm" in p]
    return same and len(set(norms)) <= 1


def _activation(node: Node) -> str:
    if node.op is ops.silu_and_mul:
        return "silu"
    return "gelu_tanh" if node.attrs["approximate"] == "tanh" else "gelu"
