"""Portable decoders read back as recipes would build them."""

import numpy as np
import pytest
from onnx import parser

from perfxlm_core.errors import GraphError
from perfxlm_core.graph.interpret import interpret
from perfxlm_core.graph.onnx import as_recipe, load_onnx, save_onnx
from perfxlm_core.graph.passes.paging import cache_layers

from .conftest import KV_HEADS, LAYERS, SIZE, decoder

FEEDS = {
    "token_ids": np.array([5, 9, 2, 71, 33, 8], np.int32),
    "positions": np.arange(6, dtype=np.int32),
}


def round_trip(graph, folder, form="quantized"):
    return as_recipe(load_onnx(save_onnx(graph, folder, form=form).path))


@pytest.mark.parametrize("weights", ["float32", "bfloat16", "q4_0", "q4_1", "q8_0"])
def test_the_same_logits(tmp_path, weight_file, weights, form):
    graph = decoder(weight_file(weights))
    again = round_trip(graph, tmp_path / "out", form)
    np.testing.assert_allclose(interpret(again, FEEDS)[0], interpret(graph, FEEDS)[0], atol=2e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"bias": True},
        {"norm_heads": True},
        {"turned": SIZE // 2},
        {"soft_cap": 3.0},
        {"window": 3},
    ],
)
def test_variants_of_models(tmp_path, weight_file, options):
    graph = decoder(weight_file("q8_0"), **options)
    again = round_trip(graph, tmp_path / "out")
    np.testing.assert_allclose(interpret(again, FEEDS)[0], interpret(graph, FEEDS)[0], atol=2e-5)
    shapes = [(c.layer, c.kv_heads, c.head_dim) for c in cache_layers(again)]
    assert shapes == [(i, KV_HEADS, SIZE) for i in range(LAYERS)]
    windows = {n.attrs["window"] for n in again.nodes if n.op.name == "attention"}
    assert windows == {options.get("window")}


def test_nothing_is_lost_or_added(tmp_path, weight_file):
    graph = decoder(weight_file("q4_1"))
    again = round_trip(graph, tmp_path / "out")
    assert sorted(n.op.name for n in again.nodes) == sorted(n.op.name for n in graph.nodes)
    formats = sorted(v.constant.format for v in graph.used_constants())
    assert sorted(v.constant.format for v in again.used_constants()) == formats
    second = round_trip(again, tmp_path / "second")
    np.testing.assert_allclose(interpret(second, FEEDS)[0], interpret(graph, FEEDS)[0], atol=2e-5)


def test_other_graphs_are_refused(tmp_path, weight_file):
    text = '<ir_version: 10, opset_import: ["" : 21]> g (float[N] x) => (float[N] y) {y = Relu(x)}'
    with pytest.raises(GraphError, match="not a decoder"):
        as_recipe(load_onnx(parser.parse_model(text)))


def test_a_node_that_no_recipe_has_is_named(tmp_path, weight_file):
    graph = load_onnx(save_onnx(decoder(weight_file("float32")), tmp_path / "out").path)
    node = next(n for n in graph.nodes if n.op.name == "swish")
    node.attrs["alpha"] = 2.0
    with pytest.raises(GraphError, match="swish"):
        as_recipe(graph)
