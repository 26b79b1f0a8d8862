"""Rotary frequencies against transformers' own, for every type and several lengths."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from perfxlm_core.errors import ConfigError
from perfxlm_core.graph.rope import ROPE_TYPES, inverse_frequencies, rope_parameters

HIDDEN, HEADS, TRAINED = 256, 4, 4096
HALF = HIDDEN // HEADS // 2
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 1024,
}
LONG = {
    "rope_type": "longrope",
    "long_factor": np.linspace(1, 40, HALF).tolist(),
    "short_factor": np.linspace(1, 1.5, HALF).tolist(),
    "original_max_position_embeddings": 1024,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}
CASES = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 2.5},
    "dynamic": {"rope_type": "dynamic", "factor": 3.0},
    "llama3": LLAMA3,
    "llama3-32": {**LLAMA3, "factor": 32.0, "high_freq_factor": 2.0},
    "yarn": YARN,
    "yarn-no-factor": {"rope_type": "yarn", "factor": None, "beta_fast": 16, "beta_slow": 2}
    | {"original_max_position_embeddings": 2048},
    "yarn-attention": {**YARN, "attention_factor": 1.25, "truncate": False},
    "yarn-mscale": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.1},
    "longrope": LONG,
    "longrope-attention": {**LONG, "factor": 16.0, "attention_factor": 1.1},
}


def reference(parameters, theta, length):
    """What transformers computes for a Llama of our sizes."""
    config = LlamaConfig(
        hidden_size=HIDDEN,
        num_attention_heads=HEADS,
        max_position_embeddings=TRAINED,
        rope_parameters={**parameters, "rope_theta": theta},
    )
    if parameters["rope_type"] == "default":
        inverse, factor = LlamaRotaryEmbedding.compute_default_rope_parameters(config)
    else:
        rule = ROPE_INIT_FUNCTIONS[parameters["rope_type"]]
        inverse, factor = rule(config, torch.device("cpu"), seq_len=length)
    return inverse.numpy(), factor


@pytest.mark.parametrize("length", [None, 512, 1024, 1025, 4096, 20_000])
@pytest.mark.parametrize("theta", [10_000.0, 500_000.0, 1_000_000.0])
@pytest.mark.parametrize("name", CASES)
def test_every_type_equals_transformers(name, theta, length):
    expected, factor = reference(CASES[name], theta, length)
    # transformers' longrope takes the short factors when it is told no length
    ours = length if length is not None or "longrope" not in name else 1
    found, found_factor = inverse_frequencies(
        rope_parameters({"rope_parameters": CASES[name], "rope_theta": theta}),
        HIDDEN // HEADS,
        TRAINED,
        length=ours,
    )
    assert found.dtype == np.float32
    np.testing.assert_array_max_ulp(found, expected, maxulp=6)  # blends of two add up roundings
    assert found_factor == pytest.approx(factor, rel=1e-12)


def test_every_type_has_a_case():
    assert {case["rope_type"] for case in CASES.values()} == set(ROPE_TYPES)


def test_longrope_is_decided_by_the_longest_sequence():
    parameters = rope_parameters({"rope_parameters": LONG})
    ask = {n: inverse_frequencies(parameters, 64, TRAINED, length=n)[0] for n in (None, 1024, 1025)}
    np.testing.assert_array_equal(ask[None], ask[1025])
    assert (ask[1024] != ask[1025]).any()


def test_dynamic_changes_nothing_within_the_trained_length():
    plain = inverse_frequencies({"rope_type": "default", "rope_theta": 1e4}, 64, TRAINED)[0]
    dynamic = rope_parameters({"rope_scaling": {"type": "dynamic", "factor": 4.0}})
    np.testing.assert_array_equal(inverse_frequencies(dynamic, 64, TRAINED)[0], plain)
    longer = inverse_frequencies(dynamic, 64, TRAINED, length=2 * TRAINED)[0]
    assert (longer[1:] < plain[1:]).all()


@given(share=st.sampled_from([0.25, 0.5, 0.75, 1.0]), head_dim=st.sampled_from([16, 64, 80, 128]))
@settings(deadline=None, max_examples=16)
def test_partial_rotation_turns_the_first_part_of_a_head(share, head_dim):
    parameters = rope_parameters({"partial_rotary_factor": share, "rope_theta": 1e4})
    found, _ = inverse_frequencies(parameters, head_dim, TRAINED)
    dim = int(head_dim * share)
    np.testing.assert_allclose(found, [1e4 ** (-i / dim) for i in range(0, dim, 2)], rtol=1e-6)


def test_both_generations_of_configurations_mean_the_same():
    old = {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}}
    new = {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}}
    assert rope_parameters(old) == rope_parameters(new)


def test_explicit_divisors_reproduce_llama3():
    plain = {"rope_type": "default", "rope_theta": 5e5}
    base, _ = inverse_frequencies(plain, 64, TRAINED)
    scaled, _ = inverse_frequencies({**LLAMA3, "rope_theta": 5e5}, 64, TRAINED)
    again, _ = inverse_frequencies(plain, 64, TRAINED, freq_factors=(base / scaled).tolist())
    np.testing.assert_array_max_ulp(again, scaled, maxulp=2)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"rope_type": "spiral"}, "unknown rope type 'spiral'; known are default, linear"),
        ({"rope_type": ["linear"]}, "unknown rope type"),
        ({"rope_type": "linear"}, "factor=None, want a positive number"),
        ({"rope_type": "linear", "factor": -1.0}, "factor=-1.0"),
        ({"rope_type": "linear", "factor": math.nan}, "factor=nan"),
        ({"rope_type": "linear", "factor": True}, "factor=True"),
        ({"rope_type": "dynamic", "factor": 10**400}, "want a positive number"),
        ({"rope_type": "linear", "factor": 2.0, "alpha": 3.0}, "the parameter alpha=3.0"),
        ({**LLAMA3, "low_freq_factor": 4.0}, "are equal"),
        ({**LONG, "long_factor": [1.0]}, "long_factor must be 32 positive numbers"),
        ({**LONG, "short_factor": "abc"}, "short_factor must be 32 positive numbers"),
        ({"mrope_section": [8, 8, 16]}, "the parameter mrope_section"),
        ({"full_attention": {"rope_theta": 1.0}}, "differ between kinds of layers"),
        ({"partial_rotary_factor": 1.5}, "partial_rotary_factor=1.5"),
        ({"partial_rotary_factor": 0.01}, "an even number, at least 2"),
        ({"rope_theta": 0}, "rope_theta=0"),
    ],
)
def test_what_cannot_be_computed_is_refused(parameters, message):
    with pytest.raises(ConfigError, match=message.replace("[", r"\[")):
        inverse_frequencies(rope_parameters({"rope_parameters": parameters}), 64, TRAINED)
