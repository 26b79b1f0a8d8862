"""Fusing: the same logits, only where a device takes the composite, and no work done twice."""

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perfxlm_core import ops
from perfxlm_core.graph.costs import Ragged, cost_of
from perfxlm_core.graph.ir import Graph, Node, Value
from perfxlm_core.graph.loading import LoadOptions, plan_model
from perfxlm_core.graph.passes import fuse, page_attention, select_rows
from perfxlm_core.graph.plan import decide
from perfxlm_core.ops.formats import Tensor
from perfxlm_core.plugin import KernelSet
from perfxlm_core.registry.kernels import Registry

from .test_loading import CONFIG, Source
from .test_plan import SIZES, step

HIDDEN, WIDE, VOCAB, HEADS, KV_HEADS, HEAD_DIM = 8, 12, 11, 4, 2, 4
COMPOSITES = {"qkv_rotary_store": 1, "gated_linear": 1, "linear_add": 2}
"""Composites of a layer that is fused completely."""


def weights(name: str) -> Tensor:
    """Random weights whose shape the name ends with."""
    shape = tuple(int(n) for n in name.split(".")[-1].split("x"))
    rng = np.random.default_rng(sum(name.encode()))
    return Tensor.from_array(name, rng.standard_normal(shape).astype(np.float32) / 2)


def weight(g: Graph, name: str, *shape: int) -> Value:
    return g.weight(f"{name}.{'x'.join(map(str, shape))}", *shape)


def model(head_norms: bool, biases: bool, activation: str, interleaved: bool) -> Graph:
    """Two layers, with what families differ in."""
    g = Graph(weights)

    def linear(name: str, x: Value, rows: int) -> Any:
        bias = weight(g, f"{name}_bias", rows) if biases else None
        return ops.linear(x, weight(g, name, rows, x.shape[-1]), bias)

    def heads(name: str, x: Value, count: int) -> Any:
        return linear(name, x, count * HEAD_DIM).reshape(-1, count, HEAD_DIM)

    def turned(name: str, x: Value, count: int) -> Any:
        y = heads(name, x, count)
        if head_norms:
            y = ops.rms_norm(y, weight(g, f"{name}_norm", HEAD_DIM), eps=1e-3)
        return ops.rotary_embedding(y, cos, sin, interleaved=interleaved)

    x: Any = ops.embedding(g.token_ids, weight(g, "embed", VOCAB, HIDDEN))
    inverse = g.constant("inverse", np.array([1.0, 0.1], np.float32))
    cos, sin = ops.rotary_table(g.positions, inverse)
    for layer in range(2):
        with g.scope("layers", layer):
            y = ops.rms_norm(x, weight(g, "norm_a", HIDDEN), eps=1e-2)
            q, k = turned("q", y, HEADS), turned("k", y, KV_HEADS)
            y = ops.attention(q, k, heads("v", y, KV_HEADS), layer=layer)
            x = x + linear("o", y.reshape(-1, HEADS * HEAD_DIM), HIDDEN)
            y = ops.rms_norm(x, weight(g, "norm_b", HIDDEN))
            gate, up = linear("gate", y, WIDE), linear("up", y, WIDE)
            if activation == "silu":
                y = ops.silu_and_mul(gate, up)
            else:
                y = ops.gelu_and_mul(gate, up, approximate=activation)
            x = x + linear("down", y, HIDDEN)
    g.outputs = [ops.linear(x, weight(g, "embed", VOCAB, HIDDEN))]
    page_attention(g, block_size=4, max_blocks=4, cache_dtype="float32", blocks=8)
    select_rows(g)
    return g


def counts(graph: Graph) -> dict[str, int]:
    return {n: sum(node.op.name == n for node in graph.nodes) for n in COMPOSITES}


def composite_kernels(device: str) -> KernelSet:
    """Kernels of the composites: their own bodies, called whole."""
    kernels = KernelSet(vendor="tests", device=device)
    for op in (ops.qkv_rotary_store, ops.gated_linear, ops.linear_add):
        _whole(kernels, op)
    return kernels


def _whole(kernels: KernelSet, op: Any) -> None:
    from inspect import Parameter, Signature

    def kernel(*args: Any, **attrs: Any) -> None:
        out, inputs = args[0], args[1:]
        out[...] = op.fn(*inputs, **attrs)

    names = op.kernel_parameters
    kernel.__signature__ = Signature(  # type: ignore[attr-defined]
        [Parameter(n, Parameter.POSITIONAL_OR_KEYWORD) for n in names]
    )
    kernels.implements(op)(kernel)


def logits(graph: Graph, device: Any, registry: Registry) -> np.ndarray:
    """Two sequences, in two chunks."""
    plan = decide(graph, device, registry, SIZES)
    plan.lay_out()
    bound = plan.bind()
    ids, tables = [[1, 2, 3, 4, 5], [6, 7, 8]], np.array([[3, 0], [5, 6]], np.int32)
    step(bound, ids, tables, [(0, 4), (0, 0)])
    return step(bound, ids, tables, [(4, 5), (0, 3)])


@pytest.mark.parametrize("kernels", [True, False], ids=["kernels", "bodies"])
@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_fused_graphs_compute_the_same(
    kernels: bool, data: st.DataObject, registry: Registry, host: Any
) -> None:
    """Whatever of it a device takes; a composite that none takes is its body again."""
    form = data.draw(
        st.tuples(
            st.booleans(), st.booleans(), st.sampled_from(["silu", "none", "tanh"]), st.booleans()
        )
    )
    taken = data.draw(st.sets(st.sampled_from(sorted(COMPOSITES))))
    with_norm = data.draw(st.booleans())

    def accepts(node: Node) -> bool:
        return node.op.name in taken and (with_norm or node.inputs.get("norm_weight") is None)

    if kernels:
        registry.extend(composite_kernels(host.name))
    graph, plain = model(*form), model(*form)
    want = logits(plain, host, registry)
    before = len(graph.nodes)
    fuse(graph, accepts)
    assert counts(graph) == {n: 2 * c * (n in taken) for n, c in COMPOSITES.items()}
    if not taken:
        assert len(graph.nodes) == before
    elif not with_norm:
        assert sum(n.op is ops.rms_norm for n in graph.nodes) >= 4
    got = logits(graph, host, registry)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_fused_graphs_compute_as_much() -> None:
    """Operations are those of the products, whichever node they are in."""
    batch = Ragged([4, 3], [5, 3])

    def operations(graph: Graph) -> int:
        return sum(cost_of(node, SIZES, batch).operations for node in graph.nodes)

    graph, plain = model(True, True, "silu", False), model(True, True, "silu", False)
    fuse(graph, lambda node: True)
    assert counts(graph) == {n: 2 * c for n, c in COMPOSITES.items()}
    assert operations(graph) == operations(plain) > 0


@pytest.mark.parametrize("name", ["linear", "rms_norm", "rotary_embedding", "reshape"])
def test_what_others_read_is_not_fused_away(name: str, registry: Registry, host: Any) -> None:
    """A value that is an output of the graph as well keeps its node."""
    graph, plain = (model(False, False, "silu", False) for _ in "ab")
    for g in (graph, plain):
        kept = next(n for n in g.nodes if n.op.name == name)
        g.outputs.append(kept.outputs[0])
    fuse(graph, lambda node: True)
    assert any(graph.outputs[1] in n.outputs for n in graph.nodes)
    want, got = (logits(g, host, registry) for g in (plain, graph))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_layers_of_other_shapes_stay(registry: Registry) -> None:
    """Gate and up that read different values, keys that are turned by other angles."""
    g = Graph(weights)
    tokens = g.token_ids.shape[0]
    a, b = (g.input(n, (tokens, HIDDEN), "float32") for n in "ab")
    gate = ops.linear(a, weight(g, "gate", WIDE, HIDDEN))
    up = ops.linear(b, weight(g, "up", WIDE, HIDDEN))
    g.outputs = [ops.silu_and_mul(gate, up)]
    fuse(g, lambda node: True)
    assert [n.op.name for n in g.nodes] == ["linear", "linear", "silu_and_mul"]


def test_one_linear_layer_is_not_its_own_partner() -> None:
    g = Graph(weights)
    x = g.input("x", (g.token_ids.shape[0], HIDDEN), "float32")
    y = ops.linear(x, weight(g, "w", HIDDEN, HIDDEN))
    g.outputs = [ops.silu_and_mul(y, y), ops.add(y, y)]
    fuse(g, lambda node: True)
    assert [n.op.name for n in g.nodes] == ["linear", "silu_and_mul", "add"]


def test_loading_fuses_only_for_devices_with_kernels(host: Any, registry: Registry) -> None:
    """Without kernels for composites the plan has none."""
    source = Source(CONFIG, ["LlamaForCausalLM"])
    options = LoadOptions(max_num_seqs=2, num_gpu_blocks_override=8)
    before, _ = plan_model(source, host, registry, options)
    assert not any(counts(before.graph).values())
    registry.extend(composite_kernels(host.name))
    after, _ = plan_model(source, host, registry, options)
    layers = CONFIG["num_hidden_layers"]
    assert isinstance(layers, int)
    assert counts(after.graph) == {n: layers * c for n, c in COMPOSITES.items()}
    assert len(after.steps) < len(before.steps)
