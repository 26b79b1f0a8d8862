"""Recipes' graphs, run by the operators' references, against transformers."""

import json

import numpy as np
import pytest

from perfxlm_core.checkpoints import open_checkpoint
from perfxlm_core.errors import CheckpointError, ConfigError, GraphError
from perfxlm_core.graph.recipe import find_recipe

from .interpreter import evaluate
from .tiny import make, prompt


def graph_of(path, dtype="float32", **changes):
    """The graph that the installed recipe builds for a folder, settings changed."""
    checkpoint = open_checkpoint(path)
    recipe = find_recipe(checkpoint.architectures)
    return recipe.graph({**checkpoint.config, **changes}, checkpoint.tensor, dtype=dtype)


@pytest.mark.parametrize("length", [1, 2, 40, 130])
def test_logits_equal_transformers(tiny, length):
    ids = prompt(length)
    found = evaluate(graph_of(tiny.path), token_ids=ids, positions=np.arange(length))
    expected = tiny.logits(ids)
    assert np.abs(expected).max() > 3  # a test on flat logits would prove nothing
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_every_weight_of_the_checkpoint_is_used(tiny):
    graph = graph_of(tiny.path)
    names = {name.split(":")[0] for name in graph.constants} - {"rope.inverse_frequencies"}
    assert names == set(open_checkpoint(tiny.path).names())


def test_older_configurations_mean_the_same(tmp_path):
    """`rope_theta` beside `rope_scaling`, as transformers 4 wrote it."""
    tiny = make("llama-groups4-llama3", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    parameters = config.pop("rope_parameters")
    config["rope_theta"] = parameters.pop("rope_theta")
    (tmp_path / "config.json").write_text(json.dumps({**config, "rope_scaling": parameters}))
    ids = prompt(90)
    found = evaluate(graph_of(tmp_path), token_ids=ids, positions=np.arange(90))
    np.testing.assert_allclose(found, tiny.logits(ids), rtol=0, atol=1e-4)


def test_float64_shows_that_only_rounding_separates_us(tmp_path):
    tiny = make("qwen3-groups3-tied", tmp_path)
    tiny.model.double()
    ids = prompt(60)
    found = evaluate(graph_of(tmp_path, "float64"), token_ids=ids, positions=np.arange(60))
    # the rotary tables are float32 by definition, and so are transformers'
    np.testing.assert_allclose(found, tiny.logits(ids), rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "gelu"}, "hidden_act='gelu'.*only hidden_act='silu'"),
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping=50.0.*does not know"),
        ({"rope_parameters": {"rope_type": "spiral"}}, "unknown rope type 'spiral'"),
        ({"num_attention_heads": 5, "head_dim": None}, "not a multiple"),
        ({"num_key_value_heads": 3}, "not a multiple of num_key_value_heads=3"),
        ({"num_hidden_layers": -1}, "num_hidden_layers=-1.*positive integer"),
        ({"hidden_size": "48"}, "hidden_size='48'.*positive integer"),
        ({"rope_parameters": [1, 2]}, "want a dictionary"),
    ],
)
def test_a_configuration_that_we_do_not_compute_is_refused(tiny_llama, changes, message):
    with pytest.raises(ConfigError, match=message):
        graph_of(tiny_llama.path, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_sliding_window": True, "layer_types": ["full_attention"]}, "of 2 layers"),
        ({"layer_types": ["full_attention", "linear_attention"]}, "linear_attention"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding_window is not given"),
        ({"attention_bias": False, "qk_norm": True}, "qk_norm=True"),
    ],
)
def test_layers_of_an_unknown_kind_are_refused(tmp_path, changes, message):
    make("qwen2", tmp_path)
    with pytest.raises(ConfigError, match=message):
        graph_of(tmp_path, **changes)


def test_a_llama_with_a_window_is_refused(tiny_llama):
    """transformers ignores the setting for this class; whoever set it meant something."""
    with pytest.raises(ConfigError, match="sliding_window=4096"):
        graph_of(tiny_llama.path, sliding_window=4096)


def test_a_configuration_that_does_not_fit_the_weights_is_refused(tiny_llama):
    with pytest.raises(GraphError, match=r"gate_proj.*\(80, 48\).*\(81, 48\)"):
        graph_of(tiny_llama.path, intermediate_size=81)
    with pytest.raises(CheckpointError, match=r"model\.layers\.2"):
        graph_of(tiny_llama.path, num_hidden_layers=3)
