"""The recipes' own promises; logits are compared with transformers in the core's tests/parity."""

from importlib.metadata import entry_points

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers import Qwen2Config as TheirQwen2Config
from transformers import Qwen3Config as TheirQwen3Config

from perfxlm_core import ops
from perfxlm_core.recipes import ConfigError
from perfxlm_qwen import Qwen2Config, Qwen3Config, qwen2, qwen3

CONFIG = {
    "hidden_act": "silu",
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 128,
    "rope_theta": 10000.0,
}
WINDOWED = {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}


@pytest.mark.parametrize(
    ("recipe", "theirs", "changes"),
    [
        (qwen2, TheirQwen2Config, {}),
        (qwen2, TheirQwen2Config, {"tie_word_embeddings": True}),
        (qwen3, TheirQwen3Config, {"head_dim": 16}),
        (qwen3, TheirQwen3Config, {"attention_bias": True, "tie_word_embeddings": True}),
    ],
)
def test_weights_have_the_names_and_shapes_of_hugging_face(recipe, theirs, changes):
    graph = recipe.graph({**CONFIG, **changes})
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(theirs(**{**CONFIG, **changes}))
    expected = {name: tuple(p.shape) for name, p in model.named_parameters()}
    ours = {n: v.shape for n, v in graph.constants.items() if n != "rope.inverse_frequencies"}
    assert ours == expected


def test_entry_points_name_the_recipes():
    found = {
        (p.group, p.name): p.load()
        for group in ("perfxlm.recipes", "perfxlm.gguf")
        for p in entry_points(group=group)
        if p.value.startswith("perfxlm_qwen")
    }
    assert found == {
        ("perfxlm.recipes", "Qwen2ForCausalLM"): qwen2,
        ("perfxlm.recipes", "Qwen3ForCausalLM"): qwen3,
        ("perfxlm.gguf", "qwen2"): qwen2,
        ("perfxlm.gguf", "qwen3"): qwen3,
    }


@pytest.mark.parametrize("ours", [Qwen2Config, Qwen3Config])
@pytest.mark.parametrize(
    ("changes", "windows"),
    [
        ({}, [None, None, None]),
        ({"sliding_window": 16}, [None, None, None]),
        (WINDOWED, [None, 16, 16]),
        ({**WINDOWED, "max_window_layers": 28}, [None, None, None]),
        (
            {**WINDOWED, "layer_types": ["sliding_attention", "full_attention", "full_attention"]},
            [16, None, None],
        ),
    ],
)
def test_windows_are_those_of_transformers(ours, changes, windows):
    theirs = TheirQwen2Config(**{**CONFIG, **changes})
    kinds = [theirs.sliding_window if "sliding" in k else None for k in theirs.layer_types]
    assert ours.from_dict({**CONFIG, **changes}).windows == windows == kinds


def test_only_the_third_generation_normalizes_queries_and_keys():
    counts = [
        sum(n.op is ops.rms_norm for n in recipe.graph(CONFIG).nodes) for recipe in (qwen2, qwen3)
    ]
    assert counts == [7, 13]


def test_layers_of_another_kind_are_refused():
    kinds = ["full_attention", "linear_attention", "full_attention"]
    with pytest.raises(ConfigError, match="linear_attention"):
        qwen3.graph({**CONFIG, "layer_types": kinds})
