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
from perfxlm_core.engine.structured_params import GuidedDecodingParams, StructuredOutputsParams
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
        ("structured_outputs", "json"),
        ("structured_outputs", {"jsn": {}}),
        ("logprob_token_ids", []),
        ("logprob_token_ids", list(range(129))),
        ("logprob_token_ids", ["x"]),
        ("stream_interval", 0),
        ("truncate_prompt_tokens", 0),
        ("thinking_token_budget", 10),
        ("repetition_detection", {"min_count": 2}),
        ("prompt_logprob_start", 3),
        ("trace_decode_token_ids", [1]),
        ("extra_args", [1]),
    ],
)
def test_refusals_name_the_field(name, value):
    with pytest.raises(ArgumentError, match=name) as refused:
        SamplingParams(**{name: value})
    assert refused.value.parameter == name


def test_stop_needs_text_and_greedy_one_output():
    with pytest.raises(ArgumentError, match="detokenize"):
        SamplingParams(stop="x", detokenize=False)
    with pytest.raises(ArgumentError, match="n must be 1"):
        SamplingParams(n=2, temperature=0)
    with pytest.raises(ArgumentError, match="logprobs must be None or the number of"):
        SamplingParams(logprobs=1, logprob_token_ids=[3, 4])


def test_what_vllm_dropped_still_means_what_it_did():
    with pytest.warns(DeprecationWarning, match="guided_decoding"):
        params = SamplingParams(guided_decoding={"choice": ["a", "b"]})
    assert params.structured_outputs == StructuredOutputsParams(choice=["a", "b"])
    with pytest.warns(DeprecationWarning, match="GuidedDecodingParams"):
        old = GuidedDecodingParams(regex="a+", backend="xgrammar")
    assert isinstance(old, StructuredOutputsParams)
    assert SamplingParams(structured_outputs=old).structured_outputs.kind == "regex"
    for harmless in ({"best_of": 2}, {"use_beam_search": False}, {"logits_processors": None}):
        with pytest.warns(DeprecationWarning, match=next(iter(harmless))):
            assert SamplingParams(n=2, **harmless) == SamplingParams(n=2)
    for harmful in ({"best_of": 3}, {"use_beam_search": True}, {"logits_processors": [print]}):
        with (
            pytest.warns(DeprecationWarning, match="dropped"),
            pytest.raises(ArgumentError, match=next(iter(harmful))),
        ):
            SamplingParams(**harmful)
    with pytest.raises(TypeError, match="'temprature'; did you mean 'temperature'"):
        SamplingParams(temprature=1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "exactly one of .*; none is given"),
        ({"json": "{}", "regex": "a"}, "json, regex are given"),
        ({"json": "{"}, "json is not JSON text"),
        ({"json": "[1]"}, "json must be a JSON schema"),
        ({"choice": []}, "choice must be a list"),
        ({"choice": "abc"}, "choice must be a list"),
        ({"choice": [""]}, "choice cannot contain an empty string"),
        ({"regex": 5}, "regex must be a string"),
        ({"json_object": "yes"}, "json_object must be a bool"),
        ({"json": {"a": 5}, "whitespace_pattern": 5}, "whitespace_pattern"),
        (
            {"json_object": True, "whitespace_pattern": "", "disable_any_whitespace": True},
            "whitespace_pattern has no meaning",
        ),
    ],
)
def test_constraints_are_one_and_well_formed(given, message):
    with pytest.raises(ArgumentError, match=message):
        StructuredOutputsParams(**given)


@given(st.integers(1, 100))
def test_schemas_are_not_too_deep(depth):
    schema = {}
    for _ in range(depth - 1):
        schema = {"items": schema}
    if depth > 64:
        with pytest.raises(ArgumentError, match="64 levels"):
            StructuredOutputsParams(json=schema)
    else:
        assert StructuredOutputsParams(json=schema).schema() == schema


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
    with pytest.raises(TypeError, match="'nn'; did you mean 'n'"):
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
