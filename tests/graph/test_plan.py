"""Plans: what they run equals the references, node by node, whatever runs it and wherever."""

from typing import Annotated, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perfxlm_core import ops
from perfxlm_core.errors import GraphError, NoKernelError
from perfxlm_core.graph.ir import Graph, Value, expand
from perfxlm_core.graph.passes import allow_rounding, cache_layers, page_attention, select_rows
from perfxlm_core.graph.plan import Plan, decide
from perfxlm_core.ops.formats import FORMATS, Tensor
from perfxlm_core.ops.spec import op
from perfxlm_core.ops.types import Array, T
from perfxlm_core.registry.kernels import Registry

HIDDEN, VOCAB, HEADS, KV_HEADS, HEAD_DIM = 8, 11, 4, 2, 4
SIZES = {"tokens": 16, "seqs": 4, "rows": 4}


def weights(name: str) -> Tensor:
    """Random weights, the same for each name."""
    rng = np.random.default_rng(sum(name.encode()))
    shapes = {
        "embed": (VOCAB, HIDDEN),
        "q": (HEADS * HEAD_DIM, HIDDEN),
        "k": (KV_HEADS * HEAD_DIM, HIDDEN),
        "v": (KV_HEADS * HEAD_DIM, HIDDEN),
        "o": (HIDDEN, HEADS * HEAD_DIM),
    }
    shape = shapes.get(name.split(".")[-1], (HIDDEN,))
    return Tensor.from_array(name, rng.standard_normal(shape).astype(np.float32) / 2)


def tiny() -> Graph:
    """Two layers of attention with a tied head."""
    g = Graph(weights)
    table = g.weight("embed", VOCAB, HIDDEN)
    x = ops.embedding(g.token_ids, table)
    inverse = g.constant("inverse", np.array([1.0, 0.1], np.float32))
    cos, sin = ops.rotary_table(g.positions, inverse)
    for layer in range(2):
        with g.scope("layers", layer):
            y = ops.rms_norm(x, g.weight("norm", HIDDEN))
            q = ops.linear(y, g.weight("q", HEADS * HEAD_DIM, HIDDEN))
            k = ops.linear(y, g.weight("k", KV_HEADS * HEAD_DIM, HIDDEN))
            v = ops.linear(y, g.weight("v", KV_HEADS * HEAD_DIM, HIDDEN))
            q = ops.rotary_embedding(q.reshape(-1, HEADS, HEAD_DIM), cos, sin)
            k = ops.rotary_embedding(k.reshape(-1, KV_HEADS, HEAD_DIM), cos, sin)
            y = ops.attention(q, k, v.reshape(-1, KV_HEADS, HEAD_DIM), layer=layer)
            y = y.reshape(-1, HEADS * HEAD_DIM)
            x = x + ops.linear(y, g.weight("o", HIDDEN, HEADS * HEAD_DIM))
    g.outputs = [ops.linear(ops.rms_norm(x, g.weight("norm", HIDDEN)), table)]
    return g


def evaluate(graph: Graph, feeds: dict[str, np.ndarray]) -> np.ndarray:
    """The graph's output by calling each operator on arrays."""
    known: dict[Value, Any] = {graph.inputs[n]: a for n, a in feeds.items()}

    def get(value: Value | None) -> Any:
        if value is None:
            return None
        return value.constant if value.constant is not None else known[value]

    for node in graph.nodes:
        attrs = dict(node.attrs)
        if node.op is ops.reshape:
            attrs["shape"] = tuple(d if isinstance(d, int) else -1 for d in node.outputs[0].shape)
        arguments = {
            n: v.array() if isinstance(v := get(i), Tensor) else v for n, i in node.inputs.items()
        }
        out = node.op(**arguments, **attrs)
        results = out if isinstance(out, tuple) else (out,)
        known.update(zip(node.outputs, results, strict=True))
    return np.asarray(known[graph.outputs[0]])


def paged(device: Any, registry: Registry, cache_dtype: str = "float32") -> Plan:
    graph = tiny()
    page_attention(graph, block_size=4, max_blocks=4, cache_dtype=cache_dtype, blocks=8)
    select_rows(graph)
    plan = decide(graph, device, registry, SIZES)
    plan.lay_out()
    return plan


@pytest.mark.parametrize("where", ["host", "remote"])
@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_steps_equal_the_recipe_node_by_node(
    where: str, data: st.DataObject, registry: Registry, request: pytest.FixtureRequest
) -> None:
    """Two sequences, in chunks, over permuted blocks: the same logits as each alone and whole."""
    compare_steps(data, paged(request.getfixturevalue(where), registry), rtol=1e-4, atol=1e-5)


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_cache_of_int8_is_a_rounding_away(
    data: st.DataObject, registry: Registry, host: Any
) -> None:
    """The same over codes and scales, by the operators' definitions."""
    compare_steps(data, paged(host, registry, "int8"), rtol=0, atol=0.05)


def compare_steps(data: st.DataObject, plan: Plan, *, rtol: float, atol: float) -> None:
    bound = plan.bind()
    ids = [data.draw(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=7)) for _ in "ab"]
    tables = np.array(data.draw(st.permutations(range(8)))[:4], np.int32).reshape(2, 2)
    cuts = [data.draw(st.integers(0, len(i) - 1)) for i in ids]
    step(bound, ids, tables, [(0, c) for c in cuts])
    logits = step(bound, ids, tables, [(c, len(i)) for c, i in zip(cuts, ids, strict=True)])
    for s, tokens in enumerate(ids):
        feeds = {
            "token_ids": np.array(tokens, np.int32),
            "positions": np.arange(len(tokens), dtype=np.int32),
        }
        np.testing.assert_allclose(logits[s], evaluate(tiny(), feeds)[-1], rtol=rtol, atol=atol)


def step(
    bound: Any,
    ids: list[list[int]],
    tables: np.ndarray,
    chunks: list[tuple[int, int]],
) -> np.ndarray:
    """Run tokens `start:end` of each sequence; logits of each one's last row."""
    live = [(s, a, b) for s, (a, b) in enumerate(chunks) if b > a]
    if not live:
        return np.zeros((0, VOCAB), np.float32)
    tokens = sum(b - a for _, a, b in live)
    sizes = {"tokens": tokens, "seqs": len(live), "rows": len(live)}
    at, starts = 0, [0]
    rows: dict[str, list[Any]] = {n: [] for n in ("token_ids", "positions", "slot_mapping")}
    for s, a, b in live:
        rows["token_ids"] += ids[s][a:b]
        rows["positions"] += range(a, b)
        rows["slot_mapping"] += [int(tables[s, p // 4]) * 4 + p % 4 for p in range(a, b)]
        at += b - a
        starts.append(at)
    block_tables = np.full((len(live), 4), -1, np.int32)
    block_tables[:, :2] = tables[[s for s, _, _ in live]]
    feeds = {
        **{n: np.array(v, np.int32) for n, v in rows.items()},
        "query_starts": np.array(starts, np.int32),
        "seq_lens": np.array([b for _, _, b in live], np.int32),
        "block_tables": block_tables,
        "logit_rows": np.array(starts[1:], np.int32) - 1,
    }
    for name, array in feeds.items():
        np.copyto(bound.view(name, sizes), array)
    bound.program(sizes)
    return np.array(bound.view(bound.plan.graph.outputs[0].name, sizes))


def test_rows_are_selected_before_the_final_norm(registry: Registry, host: Any) -> None:
    plan = paged(host, registry)
    names = [n.op.name for n in plan.graph.nodes]
    assert names[-3:] == ["take_rows", "rms_norm", "linear"]
    assert str(plan.graph.outputs[0].shape[0]) == "rows"


def test_tied_weights_count_once(registry: Registry, host: Any) -> None:
    plan = paged(host, registry)
    names = [w["name"] for w in plan.report()["weights"]]
    assert len(names) == len(set(names))
    assert names.count("embed") == 1


def test_report_is_json(registry: Registry, host: Any) -> None:
    import json

    plan = paged(host, registry)
    report = json.loads(json.dumps(plan.report()))
    hows = {n["op"]: n["how"] for n in report["nodes"]}
    assert hows["linear"] == "kernel"
    assert hows["rms_norm"] == "reference"
    assert hows["reshape"] == "view"
    assert report["memory"]["arena"] == plan.arena.nbytes


def test_cache_layers_reads_the_graph() -> None:
    found = cache_layers(tiny())
    assert [(c.layer, c.kv_heads, c.head_dim) for c in found] == [(0, 2, 4), (1, 2, 4)]
    assert found[0].bytes_per_token("float16") == 2 * 2 * 4 * 2
    assert found[0].bytes_per_token("int8") == 2 * 2 * (4 + 4)


def test_a_cache_of_int8_has_scales(host: Any, registry: Registry) -> None:
    plan = paged(host, registry, "int8")
    states = {name: (v.dtype, tuple(v.shape)) for name, v in plan.graph.states.items()}
    assert states["cache.1.k"] == ("int8", (8, 4, 2, 4))
    assert states["cache.1.v_scales"] == ("float32", (8, 4, 2))
    assert plan.cache_bytes == 8 * 4 * sum(c.bytes_per_token("int8") for c in cache_layers(tiny()))


def test_rounding_is_allowed_beside_quantized_weights_only() -> None:
    blocks = FORMATS["q8_0"].quantize(np.ones((4, 32), np.float32))
    quantized = Tensor("w", (4, 32), "q8_0", blocks.reshape(-1))
    g = Graph(lambda name: quantized)
    x = g.input("x", (4, 32), "float32")
    ops.linear(x, g.weight("w", 4, 32))
    ops.linear(x, g.constant("plain", np.ones((4, 32), np.float32)))
    allow_rounding(g)
    assert [n.attrs["exact"] for n in g.nodes] == [False, True]


def test_weights_are_decoded_where_no_kernel_takes_their_format(
    host: Any, registry: Registry
) -> None:
    values = np.linspace(-1, 1, 4 * 32, dtype=np.float32).reshape(4, 32)
    blocks = FORMATS["q8_0"].quantize(values)
    quantized = Tensor("w", (4, 32), "q8_0", blocks.reshape(-1))
    g = Graph(lambda name: quantized)
    x = g.input("x", (2, 32), "float32")
    g.outputs = [ops.linear(x, g.weight("w", 4, 32))]
    plan = decide(g, host, registry, {})
    assert plan.steps[0].dequantized == ("w",)
    plan.lay_out()
    assert plan.weight_bytes == 4 * 32 * 4
    bound = plan.bind()
    bound.view("x")[...] = 1
    bound.program({})
    want = quantized.float32().sum(axis=1)
    np.testing.assert_allclose(bound.view(g.outputs[0].name)[0], want, rtol=1e-5)


def test_updates_of_unseen_memory_need_a_kernel(remote: Any) -> None:
    graph = tiny()
    page_attention(graph, block_size=4, max_blocks=4, cache_dtype="float32")
    with pytest.raises(NoKernelError, match=r"store_kv .* has no kernel on remote"):
        decide(graph, remote, Registry(), SIZES)


AnnotatedT = Annotated[Array, "*batch", T]


@op(composite=True)
def doubled_sum(a: AnnotatedT, b: AnnotatedT) -> AnnotatedT:
    """`(a + b) + (a + b)`."""
    total = ops.add(a, b)
    return ops.add(total, total)


def test_composites_without_a_kernel_run_their_body(host: Any, registry: Registry) -> None:
    g = Graph()
    a, b = (g.input(n, (3,), "float32") for n in "ab")
    y = doubled_sum(a, b)
    g.outputs = [ops.add(y, a)]
    plan = decide(g, host, registry, {})
    assert [n.op.name for n in plan.graph.nodes] == ["add", "add", "add"]
    plan.lay_out()
    bound = plan.bind()
    bound.view("a")[...], bound.view("b")[...] = 1, 2
    bound.program({})
    assert bound.view(g.outputs[0].name).tolist() == [7, 7, 7]


def test_only_composites_expand() -> None:
    g = Graph()
    a = g.input("a", (3,), "float32")
    ops.add(a, a)
    with pytest.raises(GraphError, match="add is not a composite"):
        expand(g, g.nodes[0])


def test_a_weight_of_another_shape_is_refused() -> None:
    g = Graph(weights)
    with g.scope("layers", 0), pytest.raises(GraphError, match=r"layers\.0\.q has shape"):
        g.weight("q", 3, 3)
