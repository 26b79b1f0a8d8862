"""The whole engine on the CPU plugin against transformers, whatever the batch, chunks and cache.

Every log-probability of every position is compared, not only the sampled tokens: an error in a
block table or a mask shows here long before it changes a greedy choice.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfxlm import LLM, SamplingParams

from .tiny import VOCAB, make, prompt

TOLERANCE = 1e-3
"""Largest difference of log-probabilities allowed; about 2e-5 is what we see."""
LENGTHS = (33, 1, 64, 3, 90, 17, 48)
NEW = 12


def load(path, **changes):
    """The model in float32, without a tokenizer, giving log-probabilities of all tokens."""
    limits = {"max_num_seqs": 4, "max_num_batched_tokens": 64, "block_size": 8} | changes
    return LLM(
        str(path),
        dtype="float32",
        skip_tokenizer_init=True,
        max_logprobs=-1,
        **limits,
    )


def greedy(**changes):
    """Greedy, to the last token, with every log-probability."""
    return SamplingParams(
        temperature=0,
        max_tokens=NEW,
        ignore_eos=True,
        detokenize=False,
        logprobs=-1,
        **changes,
    )


def generate(llm, prompts, **changes):
    asked = [{"prompt_token_ids": ids} for ids in prompts]
    return llm.generate(asked, greedy(**changes), use_tqdm=False)


def rows(logprobs):
    """[tokens, vocab] of a list of dictionaries."""
    return np.array([[row[i].logprob for i in range(VOCAB)] for row in logprobs])


def check(tiny, output, ids):
    """Tokens are the greedy ones; log-probabilities are transformers', at every position."""
    found = list(output.outputs[0].token_ids)
    assert len(found) == NEW
    expected = tiny.logprobs([*ids, *found])
    after = expected[len(ids) - 1 : -1]
    assert found == after.argmax(axis=1).tolist()
    np.testing.assert_allclose(rows(output.outputs[0].logprobs), after, rtol=0, atol=TOLERANCE)
    if output.prompt_logprobs is not None and len(ids) > 1:
        before = expected[: len(ids) - 1]
        first, *rest = output.prompt_logprobs
        assert first is None
        np.testing.assert_allclose(rows(rest), before, rtol=0, atol=TOLERANCE)


PROMPTS = [prompt(n, seed) for seed, n in enumerate(LENGTHS)]


def test_alone(tiny):
    llm = load(tiny.path)
    for ids in PROMPTS:
        (output,) = generate(llm, [ids], prompt_logprobs=-1)
        check(tiny, output, ids)


@pytest.mark.parametrize(
    "limits",
    [
        {"enable_prefix_caching": True},
        {"enable_prefix_caching": False},
        {"max_num_batched_tokens": 7, "block_size": 4},
    ],
    ids=["caching", "no-caching", "chunked"],
)
def test_batched(tiny, limits):
    llm = load(tiny.path, **limits)
    for changes in ({"prompt_logprobs": -1}, {}):
        outputs = generate(llm, PROMPTS, **changes)
        for output, ids in zip(outputs, PROMPTS, strict=True):
            check(tiny, output, ids)


@pytest.mark.parametrize("caching", [True, False])
@pytest.mark.parametrize("budget", [64, 7], ids=["whole", "chunked"])
def test_preempted(tiny, budget, caching):
    """Four requests that fit when they begin and not when they end."""
    llm = load(
        tiny.path,
        max_num_batched_tokens=budget,
        enable_prefix_caching=caching,
        block_size=4,
        num_gpu_blocks_override=20,
        max_model_len=64,
    )
    prompts = [prompt(n, seed) for seed, n in enumerate((15, 16, 18, 13, 40))]
    outputs = generate(llm, prompts)
    for output, ids in zip(outputs, prompts, strict=True):
        check(tiny, output, ids)
    assert sum(output.metrics.num_preemptions for output in outputs) > 0


def test_known_prefixes(tiny):
    """Blocks computed for other requests, in this batch or an earlier one, serve as well."""
    shared = prompt(50, seed=99)
    prompts = [[*shared, *prompt(n, seed=n)] for n in (1, 5, 30)] + [shared[:40], shared]
    llm = load(tiny.path)
    for round_number in range(2):
        outputs = generate(llm, prompts)
        for output, ids in zip(outputs, prompts, strict=True):
            check(tiny, output, ids)
            if round_number:
                assert output.num_cached_tokens >= (len(ids) - 1) // 8 * 8
    assert llm.reset_prefix_cache()
    (again,) = generate(llm, [prompts[0]])
    assert again.num_cached_tokens == 0
    check(tiny, again, prompts[0])


def test_joining_and_leaving(tiny):
    """Requests that begin while others are in the middle of theirs change nothing for them."""
    llm = load(tiny.path)
    streams, found = [], {}

    def advance():
        for index, (stream, ids) in enumerate(streams):
            delta = next(stream, None)
            if delta is not None:
                tokens, logprobs, _ = found.setdefault(index, ([], [], ids))
                tokens.extend(delta.outputs[0].token_ids)
                logprobs.extend(delta.outputs[0].logprobs)

    for ids in PROMPTS[:4]:
        streams.append((llm.stream({"prompt_token_ids": ids}, greedy()), ids))
        advance()
        advance()
    dropped = llm.stream({"prompt_token_ids": PROMPTS[4]}, greedy())
    next(dropped)
    dropped.close()
    for _ in range(NEW):
        advance()
    assert len(found) == 4
    for tokens, logprobs, ids in found.values():
        expected = tiny.logprobs([*ids, *tokens])[len(ids) - 1 : -1]
        assert tokens == expected.argmax(axis=1).tolist()
        assert len(tokens) == NEW
        np.testing.assert_allclose(rows(logprobs), expected, rtol=0, atol=TOLERANCE)


def test_a_float16_cache_is_close(tmp_path):
    """Rounding keys and values to 16 bits costs little more than their 11 bits of precision."""
    tiny = make("qwen3-groups3-tied", tmp_path)
    llm = load(tiny.path, kv_cache_dtype="float16")
    (output,) = generate(llm, [PROMPTS[4]])
    tokens = list(output.outputs[0].token_ids)
    expected = tiny.logprobs([*PROMPTS[4], *tokens])[len(PROMPTS[4]) - 1 : -1]
    error = np.abs(rows(output.outputs[0].logprobs) - expected).max()
    assert 1e-6 < error < 0.1


def test_an_int8_cache_is_close(tmp_path):
    """Rounding to 8 bits is off by 1 part in 254 of a head's largest number, at most."""
    tiny = make("qwen3-groups3-tied", tmp_path)
    llm = load(tiny.path, kv_cache_dtype="int8")
    (output,) = generate(llm, [PROMPTS[4]])
    tokens = list(output.outputs[0].token_ids)
    expected = tiny.logprobs([*PROMPTS[4], *tokens])[len(PROMPTS[4]) - 1 : -1]
    error = np.abs(rows(output.outputs[0].logprobs) - expected).max()
    assert 1e-4 < error < 0.4


@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_whatever_the_limits(tiny_llama, data):
    """Any mix of prompts under any limits that can hold the longest of them."""
    lengths = data.draw(st.lists(st.integers(1, 50), min_size=1, max_size=6), label="lengths")
    block_size = data.draw(st.sampled_from([1, 2, 4, 8, 16, 32]), label="block_size")
    seqs = data.draw(st.integers(1, 6), label="max_num_seqs")
    budget = data.draw(st.integers(seqs, 70), label="max_num_batched_tokens")
    least = -(-64 // block_size)
    llm = load(
        tiny_llama.path,
        block_size=block_size,
        max_num_seqs=seqs,
        max_num_batched_tokens=budget,
        max_model_len=64,
        num_gpu_blocks_override=data.draw(st.integers(least, 3 * least), label="blocks"),
        enable_prefix_caching=data.draw(st.booleans(), label="caching"),
    )
    prompts = [prompt(n, seed=n % 3) for n in lengths]  # some begin alike
    for output, ids in zip(generate(llm, prompts), prompts, strict=True):
        check(tiny_llama, output, ids)
