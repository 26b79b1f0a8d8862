"""Engine settings, and the forms of prompts."""

import numpy as np
import pytest

from perfxlm_core.engine.config import EngineConfig
from perfxlm_core.engine.prompts import Prompt, parse_conversations, parse_prompts
from perfxlm_core.errors import ArgumentError


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dtype", "int8"),
        ("kv_cache_dtype", "fp8"),
        ("kv_cache_dtype", "int4"),
        ("quantization", "awq"),
        ("max_model_len", 0),
        ("max_num_seqs", None),
        ("max_num_seqs", 1.5),
        ("max_num_batched_tokens", 10),
        ("block_size", -16),
        ("gpu_memory_utilization", 0.0),
        ("gpu_memory_utilization", 1.1),
        ("scheduling_policy", "lifo"),
        ("max_logprobs", -2),
        ("generation_config", "none"),
    ],
)
def test_settings_out_of_range_are_named(name, value):
    with pytest.raises(ArgumentError, match=name):
        EngineConfig(**{name: value})


@pytest.mark.parametrize("value", ["fp8", "fp8_e4m3", "int4_per_token_head", "nvfp4"])
def test_dtypes_of_caches_that_exist_are_named(value):
    with pytest.raises(ArgumentError, match=rf"kv_cache_dtype must be .*int8.*; got '{value}'"):
        EngineConfig(kv_cache_dtype=value)


def test_forms_of_prompts():
    assert parse_prompts("a") == [Prompt("a", None)]
    assert parse_prompts([1, 2]) == [Prompt(None, [1, 2])]
    assert parse_prompts([[1, 2], "a"]) == [Prompt(None, [1, 2]), Prompt("a", None)]
    assert parse_prompts({"prompt": "a", "cache_salt": "s"}) == [Prompt("a", None, "s")]
    both = {"prompt": "a", "prompt_token_ids": np.array([3])}
    assert parse_prompts([both]) == [Prompt("a", [3])]
    assert parse_prompts([]) == []


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (5, "prompts is int"),
        ([1, "a"], "a prompt is int"),
        ([["a"]], "a prompt is list"),
        ({"text": "a"}, "'text'"),
        ({"cache_salt": "a"}, "needs the key"),
        ({"prompt": 5}, "must be strings"),
        ({"prompt_token_ids": ["a"]}, "list of integers"),
        ({"prompt_token_ids": "12"}, "list of integers"),
        ([None], "a prompt is NoneType"),
    ],
)
def test_other_forms_are_refused(prompts, message):
    with pytest.raises(ArgumentError, match=message):
        parse_prompts(prompts)


def test_forms_of_conversations():
    one = [{"role": "user", "content": "a"}]
    assert parse_conversations(one) == [one]
    assert parse_conversations([one, one]) == [one, one]
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    [[message]] = parse_conversations([{"role": "user", "content": parts}])
    assert message["content"] == "a\nb"


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ("hello", "must be a conversation"),
        ([], "must be a conversation"),
        ([{"content": "a"}], "'role'"),
        ([{"role": "user", "content": 5}], "must be text, got int"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "'image_url'"),
    ],
)
def test_other_conversations_are_refused(messages, message):
    with pytest.raises(ArgumentError, match=message):
        parse_conversations(messages)
