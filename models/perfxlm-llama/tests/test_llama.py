"""The recipes' own promises; logits are compared with transformers in the core's tests/parity."""

from importlib.metadata import entry_points

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers import LlamaConfig as TheirConfig

from perfxlm_core import ops
from perfxlm_core.errors import GraphError
from perfxlm_core.recipes import ConfigError
from perfxlm_llama import LlamaConfig, llama, mistral

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_act": "silu",
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 128,
    "rope_theta": 10000.0,
}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("biased", [True, False])
def test_weights_have_the_names_and_shapes_of_hugging_face(tied, biased):
    changes = {"tie_word_embeddings": tied, "attention_bias": biased, "mlp_bias": biased}
    graph = llama.graph({**CONFIG, **changes})
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(TheirConfig(**{**CONFIG, **changes}))
    theirs = {name: tuple(p.shape) for name, p in model.named_parameters()}
    ours = {n: v.shape for n, v in graph.constants.items() if n != "rope.inverse_frequencies"}
    assert ours == theirs


def test_entry_points_name_the_recipes():
    found = {
        (p.group, p.name): p.load()
        for group in ("perfxlm.recipes", "perfxlm.gguf")
        for p in entry_points(group=group)
        if p.value.startswith("perfxlm_llama")
    }
    assert found == {
        ("perfxlm.recipes", "LlamaForCausalLM"): llama,
        ("perfxlm.recipes", "MistralForCausalLM"): mistral,
        ("perfxlm.gguf", "llama"): llama,
    }


def test_the_window_and_the_order_of_rows_reach_the_operators():
    graph = mistral.graph({**CONFIG, "sliding_window": 16, "rope_interleaved": True})
    attention = [n for n in graph.nodes if n.op is ops.attention]
    assert [n.attrs["layer"] for n in attention] == [0, 1]
    assert {n.attrs["window"] for n in attention} == {16}
    rotations = [n for n in graph.nodes if n.op is ops.rotary_embedding]
    assert len(rotations) == 4
    assert all(n.attrs["interleaved"] for n in rotations)


def test_settings_that_change_the_maths_are_refused():
    with pytest.raises(ConfigError, match="hidden_act='gelu'"):
        llama.graph({**CONFIG, "hidden_act": "gelu"})
    with pytest.raises(ConfigError, match=r"embedding_multiplier=12\.0"):
        llama.graph({**CONFIG, "embedding_multiplier": 12.0})
    with pytest.raises(ConfigError, match="lacks vocab_size, hidden_size"):
        LlamaConfig.from_dict({})


def test_weights_of_another_size_are_refused():
    graph = llama.graph(CONFIG)
    with pytest.raises(GraphError, match="do not belong together"):
        graph.weight("model.norm.weight", 33)
