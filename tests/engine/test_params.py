"""Sampling parameters: names, order, defaults and refusals."""

import dataclasses
import logging
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfxlm_core.engine.params import (
    RequestOutputKind,
    SamplingParams,
    SamplingType,
    default_sampling_params,
)
from perfxlm_core.errors import ArgumentError


def test_positional_order_and_defaults():
    first = [f.name for f in dataclasses.fields(SamplingParams)][:11]
    assert first == [
        "n",
        "presence_penalty",
        "frequency_penalty",
        "repetition_penalty",
        "temperature",
        "watermarking",
        "top_p",
        "top_k",
        "min_p",
        "seed",
        "stop",
    ]
    params = SamplingParams()
    assert (params.n, params.temperature, params.top_p, params.top_k) == (1, 1.0, 1.0, 0)
    assert (params.max_tokens, params.min_tokens, params.stop) == (16, 0, [])
    assert params.output_kind is RequestOutputKind.CUMULATIVE


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 0),
        ("n", 1.5),
        ("n", True),
        ("presence_penalty", 2.1),
        ("frequency_penalty", -2.1),
        ("frequency_penalty", math.nan),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", math.inf),
        ("temperature", -0.1),
        ("temperature", 2.5),
        ("temperature", "hot"),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_k", -2),
        ("top_k", 1.5),
        ("min_p", 1.1),
        ("seed", "x"),
        ("stop", [""]),
        ("stop", [3]),
        ("stop_token_ids", ["x"]),
        ("max_tokens", 0),
        ("min_tokens", -1),
        ("min_tokens", 17),
        ("logprobs", -2),
        ("prompt_logprobs", 1.5),
        ("allowed_token_ids", []),
        ("bad_words", [""]),
        ("structured_outputs", {"json": {}}),
        ("logprob_token_ids", [1]),
        ("flat_logprobs", True),
        ("thinking_token_budget", 10),
        ("extra_args", {"a": 1}),
    ],
)
def test_refusals_name_the_field(name, value):
    with pytest.raises(ArgumentError, match=name):
        SamplingParams(**{name: value})


def test_stop_needs_text_and_greedy_one_output():
    with pytest.raises(ArgumentError, match="detokenize"):
        SamplingParams(stop="x", detokenize=False)
    with pytest.raises(ArgumentError, match="n must be 1"):
        SamplingParams(n=2, temperature=0)
    with pytest.raises(TypeError, match="best_of"):
        SamplingParams(best_of=2)


def test_normalization(caplog):
    params = SamplingParams(stop="end", stop_token_ids=[3, 3, 4], seed=-1, logprobs=True)
    assert params.stop == ["end"]
    assert params.stop_token_ids == [3, 4]
    assert params.seed is None
    assert params.logprobs == 1
    assert SamplingParams(logit_bias={"7": 500}).logit_bias == {7: 100.0}
    greedy = SamplingParams(temperature=1e-6, top_p=0.5, top_k=3)
    assert (greedy.top_p, greedy.top_k, greedy.is_greedy) == (1.0, 0, True)
    with caplog.at_level(logging.WARNING):
        assert SamplingParams(temperature=0.001).temperature == 0.01
    assert "temperature=0.001" in caplog.text
    assert SamplingParams(prompt_logprobs=0).skip_reading_prefix_cache is True


def test_sampling_types():
    assert SamplingParams(temperature=0).sampling_type is SamplingType.GREEDY
    assert SamplingParams().sampling_type is SamplingType.RANDOM
    assert SamplingParams(seed=1).sampling_type is SamplingType.RANDOM_SEED


def test_from_optional():
    params = SamplingParams.from_optional(n=None, top_p=None, max_tokens=None, seed=4)
    assert (params.n, params.top_p, params.max_tokens, params.seed) == (1, 1.0, None, 4)
    with pytest.raises(TypeError, match="'nn'"):
        SamplingParams.from_optional(nn=1)


@given(st.lists(st.integers(0, 9), max_size=4), st.integers(0, 9) | st.lists(st.integers(0, 9)))
def test_generation_config_adds_stop_tokens(own, eos):
    params = SamplingParams(stop_token_ids=own)
    params.update_from_generation_config({"eos_token_id": eos}, eos_token_id=2)
    listed = [eos] if isinstance(eos, int) else eos
    assert set(params.stop_token_ids) == ({*listed} - {2}) | set(own)
    ignoring = SamplingParams(stop_token_ids=own, ignore_eos=True)
    ignoring.update_from_generation_config({"eos_token_id": eos}, eos_token_id=2)
    assert set(ignoring.stop_token_ids) == set(own)


def test_defaults_of_the_model():
    config = {"temperature": 0.6, "top_k": 20, "max_new_tokens": 99, "do_sample": True}
    params = default_sampling_params(config)
    assert (params.temperature, params.top_k, params.max_tokens) == (0.6, 20, 99)


def test_clones_share_nothing():
    params = SamplingParams(stop=["x"], logit_bias={1: 2.0})
    clone = params.clone()
    clone.stop.append("y")
    clone.logit_bias[2] = 1.0
    assert params.stop == ["x"]
    assert params.logit_bias == {1: 2.0}
