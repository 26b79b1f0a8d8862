"""The step loop: the same tokens whatever the batch, the chunks, the cache and the preemptions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfxlm_core.engine.config import EngineConfig
from perfxlm_core.engine.engine import Engine
from perfxlm_core.engine.flat_logprobs import FlatLogprobs
from perfxlm_core.engine.params import RequestOutputKind, SamplingParams
from perfxlm_core.errors import ArgumentError, DeviceError, PerfxlmError, RequestError

from .numpy_model import NumpyModel, alone, logits_of
from .toy_tokenizer import ToyTokenizer

GREEDY = {"temperature": 0.0, "ignore_eos": True}


def make(tokenizer=None, config=None, **kwargs):
    return Engine(NumpyModel(**kwargs), tokenizer or ToyTokenizer(), EngineConfig(**(config or {})))


def run(engine):
    """Step until everything has ended; the last output of each request."""
    last = {}
    for _ in range(10_000):
        for output in engine.step():
            last[output.request_id] = output
        if not engine.has_unfinished_requests():
            return last
    raise AssertionError("the engine does not end")


def ids(output, index=0):
    return list(output.outputs[index].token_ids)


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 12)), min_size=1, max_size=8),
    shared=st.integers(0, 20),
    num_blocks=st.integers(16, 40),
    budget=st.integers(4, 40),
    caching=st.booleans(),
)
def test_batching_changes_no_token(lengths, shared, num_blocks, budget, caching):
    rng = np.random.default_rng(1)
    prefix = rng.integers(1, 64, shared).tolist()
    engine = make(
        config={"enable_prefix_caching": caching},
        num_blocks=num_blocks,
        max_num_batched_tokens=budget,
        max_num_seqs=4,
    )
    prompts = [prefix + rng.integers(1, 64, n).tolist() for n, _ in lengths]
    for i, (prompt, (_, count)) in enumerate(zip(prompts, lengths, strict=True)):
        params = SamplingParams(max_tokens=count, **GREEDY)
        engine.add_request(str(i), {"prompt_token_ids": prompt}, params)
    last = run(engine)
    for i, (prompt, (_, count)) in enumerate(zip(prompts, lengths, strict=True)):
        assert ids(last[str(i)]) == alone(prompt, count)[0]
        assert last[str(i)].outputs[0].finish_reason == "length"
    assert engine.blocks.pool.num_free == num_blocks


def test_preemption_is_forced_and_harmless():
    engine = make(num_blocks=16, max_num_seqs=4, max_num_batched_tokens=64)
    prompts = [[i + 1] * 8 for i in range(4)]
    for i, prompt in enumerate(prompts):
        engine.add_request(str(i), prompt, SamplingParams(max_tokens=30, **GREEDY))
    last = run(engine)
    assert sum(o.metrics.num_preemptions for o in last.values()) > 0
    for i, prompt in enumerate(prompts):
        assert ids(last[str(i)]) == alone(prompt, 30)[0]


def test_priority_decides_who_is_served_first():
    engine = make(config={"scheduling_policy": "priority"}, max_num_seqs=1)
    for name, priority in (("late", 5), ("soon", 0), ("sooner", -1)):
        engine.add_request(name, [3, 4], SamplingParams(max_tokens=2, **GREEDY), priority=priority)
    order = []
    while engine.has_unfinished_requests():
        order += [o.request_id for o in engine.step() if o.finished]
    assert order == ["sooner", "soon", "late"]


def test_a_shared_prefix_is_computed_once():
    engine = make(max_num_batched_tokens=64)
    prefix = list(range(1, 25))
    for i in range(4):
        engine.add_request(str(i), [*prefix, 30 + i], SamplingParams(max_tokens=1, **GREEDY))
    last = run(engine)
    assert [last[str(i)].num_cached_tokens for i in range(4)] == [0, 24, 24, 24]
    assert engine.runner.steps == [(25, 1, 1), (3, 3, 3)]


def test_cache_salt_keeps_prefixes_apart():
    engine = make()
    prompt = list(range(1, 18))
    params = SamplingParams(max_tokens=1, **GREEDY)
    cached = []
    for salt in ("", "a", "a", ""):
        engine.add_request("x", {"prompt_token_ids": prompt, "cache_salt": salt}, params)
        cached.append(run(engine)["x"].num_cached_tokens)
    assert cached == [0, 0, 16, 16]
    assert engine.reset_prefix_cache()
    engine.add_request("x", prompt, params)
    assert run(engine)["x"].num_cached_tokens == 0


def test_the_last_token_is_recomputed_when_everything_is_cached():
    engine = make()
    prompt = list(range(1, 17))
    for expected in (0, 12):
        engine.add_request("x", prompt, SamplingParams(max_tokens=3, **GREEDY))
        output = run(engine)["x"]
        assert output.num_cached_tokens == expected
        assert ids(output) == alone(prompt, 3)[0]


def test_without_chunked_prefill_prompts_are_whole():
    engine = make(config={"enable_chunked_prefill": False}, max_num_batched_tokens=64)
    for i in range(5):
        prompt = np.random.default_rng(i).integers(1, 64, 30).tolist()
        engine.add_request(str(i), prompt, SamplingParams(max_tokens=2, **GREEDY))
    run(engine)
    assert engine.runner.steps[0][0] == 60
    with pytest.raises(ArgumentError, match="max_num_batched_tokens=32"):
        make(config={"enable_chunked_prefill": False})


def test_seeded_requests_do_not_depend_on_the_batch():
    params = SamplingParams(temperature=1.0, seed=7, max_tokens=12, top_p=0.9, ignore_eos=True)
    engine = make()
    engine.add_request("x", [5, 6, 7], params)
    expected = ids(run(engine)["x"])
    crowd = make(max_num_batched_tokens=9)
    for i in range(5):
        crowd.add_request(f"other{i}", [i + 1] * 9, SamplingParams(max_tokens=9, ignore_eos=True))
    crowd.add_request("x", [5, 6, 7], params)
    assert ids(run(crowd)["x"]) == expected


def test_unseeded_requests_differ_but_an_engine_repeats_itself():
    def texts(seed):
        engine = make(config={"seed": seed})
        for i in range(3):
            engine.add_request(str(i), [5, 6, 7], SamplingParams(max_tokens=10, ignore_eos=True))
        last = run(engine)
        return [tuple(ids(last[str(i)])) for i in range(3)]

    assert texts(0) == texts(0)
    assert texts(0) != texts(1)
    assert len(set(texts(0))) == 3


def test_n_outputs_share_the_prompt_and_differ():
    engine = make(max_num_batched_tokens=64)
    engine.add_request(
        "x",
        list(range(1, 22)),
        SamplingParams(n=3, seed=1, temperature=2, max_tokens=20, ignore_eos=True),
    )
    output = run(engine)["x"]
    assert [c.index for c in output.outputs] == [0, 1, 2]
    assert len({tuple(c.token_ids) for c in output.outputs}) == 3
    assert engine.runner.steps[:2] == [(21, 1, 1), (1 + 1 + 1, 3, 3)]


def test_logprobs_are_those_of_the_raw_logits():
    engine = make()
    prompt = [4, 8, 15, 16, 23]
    engine.add_request(
        "x", prompt, SamplingParams(max_tokens=4, logprobs=3, logit_bias={9: 100.0}, **GREEDY)
    )
    completion = run(engine)["x"].outputs[0]
    assert list(completion.token_ids) == [9, 9, 9, 9]
    rows = logits_of(NumpyModel(max_num_batched_tokens=64), [*prompt, 9, 9, 9])[4:]
    for row, entry in zip(rows.astype(np.float64), completion.logprobs, strict=True):
        expected = row - np.log(np.exp(row).sum())
        assert entry[9].rank == 1 + (row > row[9]).sum()
        for token, logprob in entry.items():
            assert logprob.logprob == pytest.approx(expected[token], abs=1e-5)
            assert logprob.decoded_token == ToyTokenizer().decode([token])
        likeliest = np.argsort(-row)[:3].tolist()
        assert entry.keys() == {9, *likeliest}
        assert [entry[t].rank for t in likeliest] == [1, 2, 3]
    total = sum(e[9].logprob for e in completion.logprobs)
    assert completion.cumulative_logprob == pytest.approx(total)


@pytest.mark.parametrize("max_rows", [4, 100])
def test_prompt_logprobs_cover_the_prompt_whatever_the_chunks(max_rows):
    engine = make(max_rows=max_rows, max_num_seqs=4, num_blocks=16)
    prompt = np.random.default_rng(3).integers(1, 64, 29).tolist()
    for i in range(3):
        engine.add_request(f"other{i}", [i + 1] * 9, SamplingParams(max_tokens=20, **GREEDY))
    engine.add_request("x", prompt, SamplingParams(max_tokens=2, prompt_logprobs=1, **GREEDY))
    output = run(engine)["x"]
    rows = logits_of(NumpyModel(max_num_batched_tokens=64), prompt).astype(np.float64)
    expected = rows - np.log(np.exp(rows).sum(axis=-1, keepdims=True))
    assert output.prompt_logprobs[0] is None
    assert len(output.prompt_logprobs) == len(prompt)
    for i, entry in enumerate(output.prompt_logprobs[1:]):
        assert entry[prompt[i + 1]].logprob == pytest.approx(expected[i, prompt[i + 1]], abs=1e-5)
    assert ids(output) == alone(prompt, 2)[0]


def test_eos_and_stop_tokens():
    prompt = [5, 9, 3]
    expected = alone(prompt, 8)[0]
    engine = make()
    stop = expected[3]
    first = expected.index(stop)
    params = SamplingParams(max_tokens=8, stop_token_ids=[stop], **GREEDY)
    engine.add_request("x", prompt, params)
    completion = run(engine)["x"].outputs[0]
    assert list(completion.token_ids) == expected[: first + 1]
    assert (completion.finish_reason, completion.stop_reason) == ("stop", stop)
    assert completion.text == ToyTokenizer().decode(expected[:first])

    engine.tokenizer.eos_token_id = stop
    ender = Engine(NumpyModel(), engine.tokenizer)
    ender.add_request("x", prompt, SamplingParams(max_tokens=8, temperature=0))
    completion = run(ender)["x"].outputs[0]
    assert list(completion.token_ids) == expected[: first + 1]
    assert (completion.finish_reason, completion.stop_reason) == ("stop", None)

    further = Engine(NumpyModel(), ToyTokenizer(), generation_config={"eos_token_id": [0, stop]})
    further.add_request("x", prompt, SamplingParams(max_tokens=8, temperature=0))
    assert run(further)["x"].outputs[0].stop_reason == stop
    further.add_request("x", prompt, SamplingParams(max_tokens=8, **GREEDY))
    assert ids(run(further)["x"]) == expected


def test_min_tokens_puts_off_every_stop():
    prompt = [5, 9, 3]
    stop = alone(prompt, 1)[0][0]
    engine = make()
    engine.add_request(
        "x",
        prompt,
        SamplingParams(max_tokens=20, min_tokens=5, temperature=0, stop_token_ids=[stop]),
    )
    tokens = ids(run(engine)["x"])
    assert len(tokens) > 5
    assert stop not in tokens[:5]


def test_stop_strings_end_and_are_cut_off():
    prompt = [5, 9, 3]
    tokens = alone(prompt, 12)[0]
    text = ToyTokenizer().decode(tokens)
    stop = text[4:6]
    at = text.index(stop)
    for include in (False, True):
        engine = make()
        engine.add_request(
            "x",
            prompt,
            SamplingParams(max_tokens=12, stop=stop, include_stop_str_in_output=include, **GREEDY),
        )
        completion = run(engine)["x"].outputs[0]
        assert completion.text == text[: at + (2 if include else 0)]
        assert (completion.finish_reason, completion.stop_reason) == ("stop", stop)


def test_deltas_add_up_and_never_take_back():
    engine = make()
    params = SamplingParams(max_tokens=20, stop="never there", n=2, seed=3, ignore_eos=True)
    params.output_kind = RequestOutputKind.DELTA
    engine.add_request("x", [1, 2, 3], params)
    texts, tokens = ["", ""], [[], []]
    while engine.has_unfinished_requests():
        for output in engine.step():
            for completion in output.outputs:
                texts[completion.index] += completion.text
                tokens[completion.index] += completion.token_ids
    for text, one in zip(texts, tokens, strict=True):
        assert len(one) == 20
        assert text == ToyTokenizer().decode(one)


def test_context_length_ends_a_request():
    engine = make(max_model_len=20)
    engine.add_request("x", [1] * 15, SamplingParams(max_tokens=None, **GREEDY))
    completion = run(engine)["x"].outputs[0]
    assert len(completion.token_ids) == 5
    assert completion.finish_reason == "length"


def test_a_cache_smaller_than_the_context_limits_the_context():
    engine = make(num_blocks=3)
    assert engine.max_model_len == 12
    engine.add_request("x", [1] * 5, SamplingParams(max_tokens=None, **GREEDY))
    assert len(ids(run(engine)["x"])) == 7


def test_bad_requests_are_refused_before_anything_runs():
    engine = make()
    params = SamplingParams(max_tokens=1)
    for prompt, message in (
        ([], "empty"),
        ("", "empty"),
        ([1] * 64, "has 64 tokens; with max_model_len=64"),
        ([1, 64], "64 is outside the vocabulary"),
        ([-1], "-1 is outside"),
    ):
        with pytest.raises(RequestError, match=message):
            engine.add_request("x", {"prompt_token_ids": prompt} if prompt != "" else "", params)
    with pytest.raises(ArgumentError, match="logprobs=21"):
        engine.add_request("x", "abc", SamplingParams(logprobs=21))
    with pytest.raises(ArgumentError, match="stop_token_ids contains 64"):
        engine.add_request("x", "abc", SamplingParams(stop_token_ids=[64]))
    with pytest.raises(ArgumentError, match="tokenization_kwargs has 'padding'"):
        engine.add_request("x", "abc", params, tokenization_kwargs={"padding": True})
    assert not engine.has_unfinished_requests()
    engine.add_request("x", "abc", params)
    with pytest.raises(ArgumentError, match="'x' belongs to a request"):
        engine.add_request("x", "abc", params)


def test_one_request_without_tokens_to_choose_from_ends_alone():
    engine = make()
    impossible = SamplingParams(
        allowed_token_ids=[5], bad_words=[ToyTokenizer().decode([5])], max_tokens=4, temperature=0
    )
    engine.add_request("bad", "abc", impossible)
    engine.add_request("good", [5, 6], SamplingParams(max_tokens=4, **GREEDY))
    last = run(engine)
    assert last["bad"].outputs[0].finish_reason == "error"
    assert "no token can be generated" in last["bad"].error
    assert not last["bad"].engine_failed
    assert ids(last["good"]) == alone([5, 6], 4)[0]
    assert last["good"].error is None


def test_logits_that_are_no_numbers_end_their_request():
    engine = make()
    engine.runner.embedding[7] = np.nan
    for name, prompt in (("bad", [7]), ("good", [5, 6])):
        engine.add_request(name, prompt, SamplingParams(max_tokens=2, **GREEDY))
    last = run(engine)
    assert "nan" in last["bad"].error
    assert last["bad"].engine_failed
    assert last["good"].outputs[0].finish_reason == "length"


def test_abort_ends_now_and_frees_everything():
    engine = make()
    for name in ("a", "b"):
        engine.add_request(name, [1, 2, 3], SamplingParams(max_tokens=50, n=1, **GREEDY))
    engine.step()
    engine.add_request("waiting", [1], SamplingParams(max_tokens=50, **GREEDY))
    outputs = engine.abort_request(["a", "waiting", "unknown"])
    assert {o.request_id: o.outputs[0].finish_reason for o in outputs} == {
        "a": "abort",
        "waiting": "abort",
    }
    assert engine.get_num_unfinished_requests() == 1
    assert ids(run(engine)["b"]) == alone([1, 2, 3], 50)[0]
    assert engine.blocks.pool.num_free == engine.runner.num_blocks
    assert engine.stats().num_running == engine.stats().num_waiting == 0


def test_a_step_interrupted_while_sampling_is_noticed(monkeypatch):
    engine = make()
    engine.add_request("x", [1, 2, 3], SamplingParams(max_tokens=5, **GREEDY))
    sample = engine._sampler.sample

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(engine._sampler, "sample", interrupt)
    with pytest.raises(KeyboardInterrupt):
        engine.step()
    monkeypatch.setattr(engine._sampler, "sample", sample)
    with pytest.raises(PerfxlmError, match="1 requests cannot go on"):
        engine.step()
    assert len(engine.abort_request("x")) == 1
    assert engine.step() == []


def test_a_failing_device_ends_the_requests_that_run(monkeypatch, caplog):
    engine = make()
    for name in ("a", "b"):
        engine.add_request(name, [1, 2, 3], SamplingParams(max_tokens=50, n=2))
    engine.step()
    run_step = engine.runner.run

    def lose(*_):
        raise DeviceError("toy (a device) failed with sizes {'tokens': 4}")

    monkeypatch.setattr(engine.runner, "run", lose)
    outputs = engine.step()
    assert {o.request_id for o in outputs} == {"a", "b"}
    for output in outputs:
        assert output.finished
        assert {c.finish_reason for c in output.outputs} == {"error"}
        assert "toy (a device)" in output.error
    assert "2 requests have failed: toy (a device)" in caplog.text
    assert not engine.has_unfinished_requests()
    assert engine.blocks.pool.num_free == engine.runner.num_blocks
    monkeypatch.setattr(engine.runner, "run", run_step)
    engine.add_request("c", [1, 2, 3], SamplingParams(max_tokens=5, **GREEDY))
    assert ids(run(engine)["c"]) == alone([1, 2, 3], 5)[0]


def test_an_engine_without_a_tokenizer():
    engine = Engine(NumpyModel(), None)
    engine.add_request("x", [1, 2], SamplingParams(max_tokens=3, logprobs=1, **GREEDY))
    completion = run(engine)["x"].outputs[0]
    assert completion.text == ""
    assert len(completion.token_ids) == 3
    with pytest.raises(ArgumentError, match="needs a tokenizer"):
        engine.add_request("x", "abc", SamplingParams())
    with pytest.raises(ArgumentError, match="has no tokenizer"):
        engine.get_tokenizer()


def test_logprobs_of_chosen_tokens():
    engine = make()
    wanted = [9, 3]
    params = SamplingParams(max_tokens=2, logprob_token_ids=wanted, prompt_logprobs=0, **GREEDY)
    engine.add_request("x", [5, 6], params)
    output = run(engine)["x"]
    expected = alone([5, 6], 2)[0]
    for token, entry in zip(expected, output.outputs[0].logprobs, strict=True):
        assert list(entry) == list(dict.fromkeys([token, *wanted]))
        assert entry[token].rank == 1
    row = np.exp(logits_of(NumpyModel(), [5, 6])[-1].astype(np.float64))
    first = output.outputs[0].logprobs[0]
    for token in wanted:
        assert first[token].logprob == pytest.approx(np.log(row[token] / row.sum()), abs=1e-4)
        assert first[token].rank == 1 + np.count_nonzero(row > row[token])
    with pytest.raises(ArgumentError, match="logprob_token_ids contains 64"):
        engine.add_request("y", [5], SamplingParams(logprob_token_ids=[64]))


def test_flat_logprobs_read_like_dicts():
    outputs = {}
    for flat in (False, True):
        engine = make()
        params = SamplingParams(
            max_tokens=5, logprobs=2, prompt_logprobs=1, flat_logprobs=flat, **GREEDY
        )
        engine.add_request("x", [5, 6, 7], params)
        outputs[flat] = run(engine)["x"]
    plain, flat = outputs[False].outputs[0].logprobs, outputs[True].outputs[0].logprobs
    assert isinstance(flat, FlatLogprobs)
    assert list(flat) == plain
    assert list(flat[1:3]) == plain[1:3]
    assert flat[-1] == plain[-1]
    assert len(flat.token_ids) == sum(map(len, plain))
    assert list(outputs[True].prompt_logprobs) == [{}, *outputs[False].prompt_logprobs[1:]]


@pytest.mark.parametrize("kind", [RequestOutputKind.DELTA, RequestOutputKind.CUMULATIVE])
def test_outputs_come_at_the_stream_interval(kind):
    engine = make()
    params = SamplingParams(max_tokens=8, stream_interval=3, output_kind=kind, **GREEDY)
    engine.add_request("x", [5, 6, 7], params)
    told = []
    while engine.has_unfinished_requests():
        told += [ids(o) for o in engine.step()]
    lengths = [1, 3, 3, 1] if kind is RequestOutputKind.DELTA else [1, 4, 7, 8]
    assert [len(t) for t in told] == lengths
    expected = alone([5, 6, 7], 8)[0]
    joined = [token for part in told for token in part]
    assert (joined if kind is RequestOutputKind.DELTA else told[-1]) == expected


def test_parameters_may_cut_the_prompt():
    engine = make()
    engine.add_request("x", [1, 2, 3, 4], SamplingParams(truncate_prompt_tokens=2, **GREEDY))
    assert run(engine)["x"].prompt_token_ids == [3, 4]
    params = SamplingParams(truncate_prompt_tokens=-1, max_tokens=1, **GREEDY)
    engine.add_request("x", [1] * 100, params)
    assert len(run(engine)["x"].prompt_token_ids) == 63
