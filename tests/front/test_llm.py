"""`LLM` as its users know it, on the small NumPy model."""

import pytest

from perfxlm import LLM, SamplingParams
from perfxlm_core.engine.config import EngineConfig
from perfxlm_core.engine.engine import Engine
from perfxlm_core.errors import ArgumentError, RequestError

from ..engine.numpy_model import NumpyModel, alone
from ..engine.toy_tokenizer import ToyTokenizer

GREEDY = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)


@pytest.fixture
def llm():
    return LLM.from_engine(Engine(NumpyModel(), ToyTokenizer(), EngineConfig()))


def expected(text, count=6):
    return ToyTokenizer().decode(alone(ToyTokenizer().encode(text), count)[0])


def test_generate_accepts_every_form_and_keeps_the_order(llm):
    ids = ToyTokenizer().encode("abc")
    prompts = ["hello", ids, {"prompt": "abc"}, {"prompt_token_ids": ids}, "z"]
    outputs = llm.generate(prompts, GREEDY, use_tqdm=False)
    texts = [o.outputs[0].text for o in outputs]
    assert texts == [expected(t) for t in ("hello", "abc", "abc", "abc", "z")]
    assert [o.prompt for o in outputs] == ["hello", None, "abc", None, "z"]
    assert outputs[0].prompt_token_ids == ToyTokenizer().encode("hello")
    assert all(o.finished for o in outputs)
    assert [o.request_id for o in outputs] == list("01234")
    assert outputs[0].metrics.num_generation_tokens == 6
    [one] = llm.generate("hello", GREEDY, use_tqdm=False)
    assert one.outputs[0].text == texts[0]
    assert llm.generate([], GREEDY) == []


def test_one_params_for_each_prompt(llm):
    params = [SamplingParams(temperature=0, max_tokens=n, ignore_eos=True) for n in (1, 5)]
    outputs = llm.generate(["ab", "cd"], params, use_tqdm=False)
    assert [len(o.outputs[0].token_ids) for o in outputs] == [1, 5]
    with pytest.raises(ArgumentError, match="sampling_params has 2 entries for 1 prompts"):
        llm.generate(["ab"], params)
    with pytest.raises(ArgumentError, match="priority has 1 entries for 2"):
        llm.generate(["ab", "cd"], GREEDY, priority=[1])


def test_defaults_come_from_the_model():
    config = {"temperature": 0.0, "max_new_tokens": 3, "eos_token_id": 0}
    llm = LLM.from_engine(Engine(NumpyModel(), ToyTokenizer(), generation_config=config))
    assert llm.get_default_sampling_params().max_tokens == 3
    [output] = llm.generate("hello", use_tqdm=False)
    assert output.outputs[0].text == expected("hello", 3)


def test_everything_is_checked_before_anything_runs(llm):
    with pytest.raises(RequestError, match="has 70 tokens; with max_model_len=64"):
        llm.generate(["fine", "x" * 70], GREEDY)
    with pytest.raises(ArgumentError, match="lora_request"):
        llm.generate("x", GREEDY, lora_request="adapter")
    with pytest.raises(TypeError, match="prompt_token_id"):
        llm.generate(prompt_token_ids=[1])
    assert llm.llm_engine.runner.steps == []
    assert not llm.llm_engine.has_unfinished_requests()


def test_more_prompts_than_sequences(llm):
    prompts = [chr(97 + i) * (i + 1) for i in range(20)]
    outputs = llm.generate(prompts, GREEDY, use_tqdm=False)
    assert [o.outputs[0].text for o in outputs] == [expected(p) for p in prompts]


def test_progress_goes_to_tqdm(llm, capsys):
    llm.generate(["a", "b"], GREEDY)
    assert "Processed prompts" in capsys.readouterr().err
    made = []

    class Bar:
        def __init__(self, **kwargs):
            made.append(kwargs)
            self.updates = 0

        def update(self, n):
            self.updates += n
            made.append(self.updates)

        def close(self):
            made.append("closed")

    llm.generate(["a", "b"], GREEDY, use_tqdm=Bar)
    assert made[0]["total"] == 2
    assert made[1:] == [1, 2, "closed"]


def test_chat_renders_and_answers(llm):
    talk = [{"role": "user", "content": "hello"}]
    [output] = llm.chat(talk, GREEDY, use_tqdm=False)
    assert output.prompt == "u hello a "
    assert output.outputs[0].text == expected("u hello a ")
    two = llm.chat([talk, talk], GREEDY, use_tqdm=False, add_generation_prompt=False)
    assert [o.prompt for o in two] == ["u hello "] * 2
    with pytest.raises(ArgumentError, match="content_format"):
        llm.chat(talk, GREEDY, chat_template_content_format="openai")


def test_streams_give_deltas_and_advance_together(llm):
    first = llm.stream("hello", GREEDY)
    second = llm.stream([{"role": "user", "content": "hi"}], GREEDY)
    texts = ["", ""]
    for pair in zip(first, second, strict=True):
        for i, output in enumerate(pair):
            texts[i] += output.outputs[0].text
    assert texts == [expected("hello"), expected("u hi a ")]
    assert len(llm.llm_engine.runner.steps) <= 8
    assert GREEDY.output_kind.name == "CUMULATIVE"


def test_closing_a_stream_ends_its_request(llm):
    stream = llm.stream("hello", SamplingParams(max_tokens=None, ignore_eos=True))
    next(stream)
    assert llm.llm_engine.has_unfinished_requests()
    assert llm.reset_prefix_cache() is False
    stream.close()
    assert not llm.llm_engine.has_unfinished_requests()
    assert llm.reset_prefix_cache() is True
    with pytest.raises(ArgumentError, match="one prompt, got 2"):
        llm.stream(["a", "b"], GREEDY)
    with pytest.raises(TypeError, match="'tools'"):
        llm.stream("a", GREEDY, tools=[])


def test_an_interrupted_generate_leaves_the_engine_clean(llm, monkeypatch):
    run, calls = llm.llm_engine.runner.run, []

    def interrupt(*sizes):
        calls.append(sizes)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return run(*sizes)

    monkeypatch.setattr(llm.llm_engine.runner, "run", interrupt)
    with pytest.raises(KeyboardInterrupt):
        llm.generate(["hello", "there"], GREEDY, use_tqdm=False)
    assert not llm.llm_engine.has_unfinished_requests()
    assert llm.llm_engine.stats().kv_cache_usage == 0
    [output] = llm.generate("hello", GREEDY, use_tqdm=False)
    assert output.outputs[0].text == expected("hello")


def test_unknown_and_unsupported_arguments_are_named():
    with pytest.raises(TypeError, match="'max_modle_len'; did you mean 'max_model_len'"):
        LLM("nowhere", max_modle_len=5)
    with pytest.raises(ArgumentError, match="tensor_parallel_size=2"):
        LLM("nowhere", tensor_parallel_size=2)
    with pytest.raises(ArgumentError, match="dtype must be one of"):
        LLM("nowhere", dtype="int4")
