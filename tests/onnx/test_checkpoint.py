"""ONNX files opened as models: the graph from the file, everything else from beside it."""

import shutil

import numpy as np
import onnx
import pytest

from perfxlm_core.checkpoints import open_checkpoint
from perfxlm_core.errors import CheckpointError, ConfigError, GraphError
from perfxlm_core.graph.interpret import interpret
from perfxlm_core.graph.loading import build_graph

FEEDS = {
    "token_ids": np.array([5, 9, 2, 71, 33, 8], np.int32),
    "positions": np.arange(6, dtype=np.int32),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny Qwen3 in bfloat16, as transformers saves it, and its ONNX file beside the weights."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from perfxlm_core.graph.onnx import save_onnx

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=97, hidden_size=48, intermediate_size=80, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16, max_position_embeddings=256,
    )  # fmt: skip
    source = tmp_path_factory.mktemp("source")
    Qwen3ForCausalLM(config).to(torch.bfloat16).save_pretrained(source)
    target = tmp_path_factory.mktemp("onnx")
    graph = build_graph(open_checkpoint(source), "float32")
    save_onnx(graph, target, files=[source / "config.json", source / "generation_config.json"])
    return source, target


def test_the_file_gives_the_recipes_logits(folder):
    source, target = folder
    found = open_checkpoint(target / "model.onnx")
    assert found.kind == "onnx"
    assert found.architectures == ["Qwen3ForCausalLM"]
    assert found.config["max_position_embeddings"] == 256
    want = interpret(build_graph(open_checkpoint(source), "float32"), FEEDS)[0]
    have = interpret(build_graph(found, "float32"), FEEDS)[0]
    np.testing.assert_allclose(have, want, rtol=1e-5, atol=1e-5)


def test_a_folder_with_one_graph_and_no_other_weights_is_a_model(folder, tmp_path):
    _, target = folder
    copies = tmp_path / "copies"  # onnx itself refuses weights with a second hard link
    shutil.copytree(target, copies)
    model = onnx.load(copies / "model.onnx")
    shutil.rmtree(copies)
    onnx.save(model, tmp_path / "other.onnx")  # weights inside, nothing else in the folder
    with pytest.raises(CheckpointError, match=r"config\.json"):
        open_checkpoint(tmp_path)
    shutil.copy(target / "config.json", tmp_path)
    found = open_checkpoint(tmp_path)
    want = interpret(build_graph(open_checkpoint(target / "model.onnx"), "float32"), FEEDS)[0]
    np.testing.assert_array_equal(interpret(build_graph(found, "float32"), FEEDS)[0], want)
    with pytest.raises(CheckpointError, match="belong to its graph"):
        found.tensor("lm_head.weight")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        found.tokenizer()


def test_settings_of_a_finished_graph_cannot_be_overridden(folder):
    found = open_checkpoint(folder[1] / "model.onnx")
    with pytest.raises(ConfigError, match=r"hf_overrides=\['rope_theta'\] cannot change"):
        build_graph(found, "float32", {"rope_theta": 1.0})
    build_graph(found, "float32", {"max_model_len": 64})


def test_a_graph_that_is_no_decoder_is_refused(folder, tmp_path):
    text = '<ir_version: 10, opset_import: ["" : 21]> g (float[N] x) => (float[N] y) {y = Relu(x)}'
    onnx.save(onnx.parser.parse_model(text), tmp_path / "relu.onnx")
    shutil.copy(folder[1] / "config.json", tmp_path)
    with pytest.raises(GraphError, match="not a decoder"):
        build_graph(open_checkpoint(tmp_path), "float32")
