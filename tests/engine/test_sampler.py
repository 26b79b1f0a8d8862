"""Sampling against plain restatements of each rule, and against the exact distribution."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from perfxlm_core.engine.params import SamplingParams
from perfxlm_core.engine.sampler import (
    RequestSampler,
    Sampler,
    SeenTokens,
    draw,
    largest,
    raw_logprobs,
)
from perfxlm_core.errors import RequestError

VOCAB = 700
rows = hnp.arrays(
    np.float32,
    st.integers(1, VOCAB),
    elements=st.floats(-20, 20, width=32) | st.sampled_from([0.0, 1.0, -np.inf]),
).filter(lambda row: np.isfinite(row).any())


def distribution(row, params):
    """Probabilities of every token, by the definitions, with a full sort."""
    x = row.astype(np.float64) / params.temperature
    p = np.exp(x - x.max())
    p /= p.sum()
    if params.min_p:
        p[p < params.min_p * p.max()] = 0
    if params.top_k > 0:
        kth = np.sort(p)[::-1][min(params.top_k, len(p)) - 1]
        p[p < kth] = 0
    p /= p.sum()
    if params.top_p < 1:
        order = np.argsort(-p, kind="stable")
        before = np.cumsum(p[order]) - p[order]
        p[order[before >= params.top_p]] = 0
        p /= p.sum()
    return p


def random_row(seed, vocab=VOCAB, spread=3.0):
    return np.random.default_rng(seed).normal(size=vocab).astype(np.float32) * np.float32(spread)


@given(row=rows, count=st.integers(1, VOCAB))
def test_largest_is_the_head_of_the_sorted_row(row, count):
    ids = largest(row, count)
    assert np.all(row[ids][1:] <= row[ids][:-1])
    kth = np.sort(row)[::-1][min(count, len(row)) - 1]
    assert set(ids.tolist()) == set(np.flatnonzero(row >= kth).tolist())


@settings(deadline=None)
@given(
    row=rows,
    uniform=st.floats(0, 1, exclude_max=True),
    temperature=st.floats(0.05, 2),
    top_k=st.integers(0, 40),
    top_p=st.floats(0.01, 1),
    min_p=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
)
def test_drawn_tokens_are_within_the_truncated_set(row, uniform, temperature, top_k, top_p, min_p):
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    before = row.copy()
    token = draw(row, params, uniform, np.empty_like(row))
    assert np.array_equal(row, before, equal_nan=True)
    assert np.isfinite(row[token])
    loose = SamplingParams(
        temperature=temperature,
        top_k=top_k,
        top_p=min(1, top_p + 1e-4),
        min_p=min_p * (1 - 1e-4),
    )
    rounding = np.isclose(row[token], row, rtol=1e-6, atol=1e-6)
    assert (distribution(row, loose)[rounding] > 0).any() or distribution(row, loose)[token] > 0


@pytest.mark.parametrize(
    "settings_",
    [
        {},
        {"temperature": 0.5},
        {"top_k": 5},
        {"top_p": 0.7},
        {"top_p": 0.999},
        {"min_p": 0.05},
        {"top_k": 50, "top_p": 0.8, "temperature": 1.5},
        {"top_p": 0.9, "min_p": 0.02, "top_k": 30},
    ],
)
def test_draws_follow_the_distribution(settings_):
    """Uniforms on a fine grid give each token its probability, to the grid's width."""
    row, params, n = random_row(1), SamplingParams(**settings_), 4000
    scratch = np.empty_like(row)
    tokens = [draw(row, params, (i + 0.5) / n, scratch) for i in range(n)]
    found = np.bincount(tokens, minlength=len(row)) / n
    assert np.abs(found - distribution(row, params)).max() <= 1.5 / n


def test_top_p_looks_further_when_the_first_candidates_do_not_suffice():
    row = random_row(2, vocab=20_000, spread=0.01)
    params, scratch = SamplingParams(top_p=0.9), np.empty_like(row)
    tokens = {draw(row, params, u, scratch) for u in np.linspace(0, 1, 3000, endpoint=False)}
    allowed = set(np.flatnonzero(distribution(row, params)).tolist())
    assert tokens <= allowed
    assert len(tokens) > 2500


def sample_one(row, params, prompt=(), outputs=(), **kwargs):
    request = RequestSampler(
        params, vocab_size=len(row), prompt_token_ids=np.array(prompt, np.int32), **kwargs
    )
    for token in outputs:
        request.accept(token)
    before = row.copy()
    [token] = Sampler(len(row)).sample(row[None], [request])
    assert np.array_equal(row, before)
    return token


def processed(row, params, prompt=(), outputs=(), **kwargs):
    request = RequestSampler(
        params, vocab_size=len(row), prompt_token_ids=np.array(prompt, np.int32), **kwargs
    )
    for token in outputs:
        request.accept(token)
    row = row.copy()
    request.process(row)
    return row


@given(
    prompt=st.lists(st.integers(0, 9), max_size=8),
    outputs=st.lists(st.integers(0, 9), max_size=30),
    repetition=st.floats(0.5, 2),
    frequency=st.floats(-2, 2),
    presence=st.floats(-2, 2),
)
def test_penalties_are_their_formulas(prompt, outputs, repetition, frequency, presence):
    row = random_row(3, vocab=10)
    params = SamplingParams(
        repetition_penalty=repetition, frequency_penalty=frequency, presence_penalty=presence
    )
    expected = row.astype(np.float64)
    for token in range(10):
        if token in prompt or token in outputs:
            expected[token] *= 1 / repetition if expected[token] > 0 else repetition
        expected[token] -= frequency * outputs.count(token) + presence * (token in outputs)
    assert processed(row, params, prompt, outputs) == pytest.approx(expected, abs=1e-4)


@given(prompt=st.lists(st.integers(0, 99)), outputs=st.lists(st.integers(0, 99), max_size=200))
def test_seen_tokens_count(prompt, outputs):
    seen = SeenTokens(np.array(prompt, np.int32))
    for token in outputs:
        seen.add(token)
    counts = dict(zip(seen.ids.tolist(), seen.counts.tolist(), strict=True))
    assert counts == {t: outputs.count(t) for t in {*prompt, *outputs}}


def test_bias_allowed_and_bad_words():
    row = random_row(4)
    greedy = {"temperature": 0.0}
    order = np.argsort(-row).tolist()
    assert sample_one(row, SamplingParams(**greedy)) == order[0]
    assert sample_one(row, SamplingParams(logit_bias={5: 100, 6: 50}, **greedy)) == 5
    assert sample_one(row, SamplingParams(logit_bias={order[0]: -100}, **greedy)) == order[1]
    allowed = SamplingParams(allowed_token_ids=[order[9], order[4]], **greedy)
    assert sample_one(row, allowed) == order[4]
    words = [[order[0]], [8, 9, order[1]]]
    assert sample_one(row, SamplingParams(**greedy), bad_words=words) == order[1]
    follows = {"outputs": [7, 8, 9], "bad_words": words}
    assert sample_one(row, SamplingParams(**greedy), **follows) == order[2]
    assert sample_one(row, SamplingParams(**greedy), outputs=[9], bad_words=words) == order[1]


def test_min_tokens_holds_for_its_tokens_only():
    row = random_row(5)
    order = np.argsort(-row).tolist()
    params = SamplingParams(temperature=0, min_tokens=2, stop_token_ids=[order[0]])
    for outputs, expected in (([], 1), ([3], 1), ([3, 3], 0)):
        token = sample_one(row, params, outputs=outputs, stop_token_ids=[order[0]])
        assert token == order[expected]


def test_a_row_alone_and_in_a_batch_gives_the_same():
    kinds = [
        SamplingParams(temperature=0),
        SamplingParams(seed=1),
        SamplingParams(seed=2, top_p=0.8),
        SamplingParams(temperature=0, repetition_penalty=1.3),
        SamplingParams(seed=3, top_k=4, presence_penalty=1),
    ]
    logits = np.stack([random_row(10 + i) for i in range(len(kinds))])

    def requests():
        prompt = np.arange(20, dtype=np.int32)
        return [
            RequestSampler(p, vocab_size=VOCAB, prompt_token_ids=prompt, seed=[i])
            for i, p in enumerate(kinds)
        ]

    sampler, together = Sampler(VOCAB), requests()
    batches = [sampler.sample(logits, together) for _ in range(5)]
    for i, request in enumerate(requests()):
        alone = [sampler.sample(logits[i : i + 1], [request])[0] for _ in range(5)]
        assert alone == [batch[i] for batch in batches]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("temperature", [0, 1])
def test_rows_that_make_no_sense_end_their_request_only(bad, temperature):
    logits = np.stack([random_row(1), random_row(2)])
    logits[0, 17] = bad
    params = SamplingParams(temperature=temperature)
    requests = [
        RequestSampler(params, vocab_size=VOCAB, prompt_token_ids=np.zeros(1, np.int32))
        for _ in range(2)
    ]
    error, token = Sampler(VOCAB).sample(logits, requests)
    assert isinstance(error, RequestError)
    assert "token id 17" in str(error)
    assert isinstance(token, int)
    assert requests[0].output_token_ids == []


@given(row=rows, count=st.integers(-1, 30), data=st.data())
def test_raw_logprobs_are_a_log_softmax(row, count, data):
    token = data.draw(st.sampled_from(np.flatnonzero(np.isfinite(row)).tolist()))
    exact = row.astype(np.float64) - np.log(np.exp(row.astype(np.float64)).sum())
    (first, *rest) = raw_logprobs(row, token, count)
    assert first[0] == token
    assert first[1] == pytest.approx(exact[token], abs=1e-4)
    assert first[2] == 1 + (row > row[token]).sum()
    assert len(rest) == (len(row) if count == -1 else min(count, len(row)))
    assert [rank for _, _, rank in rest] == list(range(1, len(rest) + 1))
    expected = np.sort(exact)[::-1][: len(rest)]
    assert [value for _, value, _ in rest] == pytest.approx(expected, abs=1e-4)
