"""`LLM` as its users know it, on the small NumPy model."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from perfxlm import LLM, SamplingParams
from perfxlm_core.engine.config import EngineConfig
from perfxlm_core.engine.llm_engine import LLMEngine
from perfxlm_core.errors import ArgumentError, RequestError

from ..engine.numpy_model import NumpyModel, alone
from ..engine.toy_tokenizer import ToyTokenizer

GREEDY = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)


@pytest.fixture
def llm():
    return LLM.from_engine(LLMEngine(NumpyModel(), ToyTokenizer(), EngineConfig()))


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


def test_token_ids_can_be_arrays(llm):
    ids = np.array(ToyTokenizer().encode("abc"))
    for prompts in (ids, [ids], [{"prompt_token_ids": ids}], list(ids)):
        [output] = llm.generate(prompts, GREEDY, use_tqdm=False)
        assert output.outputs[0].text == expected("abc")


@pytest.mark.parametrize("prompt", [b"abc", [b"abc"], [1.5, 2.5], [[1.0]], [True], [None], None])
def test_what_is_no_prompt_is_refused(llm, prompt):
    with pytest.raises(ArgumentError, match="expected"):
        llm.generate(prompt, GREEDY, use_tqdm=False)


def test_what_are_no_parameters_is_refused(llm):
    with pytest.raises(ArgumentError, match="sampling_params is dict; expected SamplingParams"):
        llm.generate("a", {"temperature": 0})
    for kept in (0, -2, 1.5, True):
        with pytest.raises(ArgumentError, match="truncate_prompt_tokens"):
            llm.generate("a", GREEDY, tokenization_kwargs={"truncate_prompt_tokens": kept})
    [output] = llm.generate(
        "abcdef", GREEDY, use_tqdm=False, tokenization_kwargs={"truncate_prompt_tokens": 3}
    )
    assert output.prompt_token_ids == ToyTokenizer().encode("def")


def test_threads_may_share_it(llm):
    texts = ["hello", "there", "abc", "z", "many words"] * 4

    def ask(text):
        return llm.generate([text, text[::-1]], GREEDY, use_tqdm=False)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, texts))
    for text, (one, two) in zip(texts, answers, strict=True):
        assert one.outputs[0].text == expected(text)
        assert two.outputs[0].text == expected(text[::-1])
    assert not llm.llm_engine.has_unfinished_requests()


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
    llm = LLM.from_engine(LLMEngine(NumpyModel(), ToyTokenizer(), generation_config=config))
    assert llm.get_default_sampling_params().max_tokens == 3
    [output] = llm.generate("hello", use_tqdm=False)
    assert output.outputs[0].text == expected("hello", 3)


def test_everything_is_checked_before_anything_runs(llm):
    with pytest.raises(RequestError, match="has 70 tokens; with max_model_len=64"):
        llm.generate(["fine", "x" * 70], GREEDY)
    with pytest.raises(ArgumentError, match="lora_request"):
        llm.generate("x", GREEDY, lora_request="adapter")
    with pytest.raises(TypeError, match="prompt_ids"):
        llm.generate(prompt_ids=[1])
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


def test_parts_of_a_message_without_text_are_refused(llm):
    for part in ({"type": "text"}, {"type": "text", "text": 5}, {"type": "image_url"}, 7):
        with pytest.raises(ArgumentError, match="a message's content has a part"):
            llm.chat([{"role": "user", "content": [part]}], GREEDY)


def test_progress_counts_its_own_requests_only(llm):
    counted = []

    class Bar:
        def __init__(self, **given):
            pass

        def update(self, n):
            counted.append(n)

        def close(self):
            pass

    stream = llm.stream("hello", GREEDY)
    next(stream)
    llm.generate(["a", "b"], GREEDY, use_tqdm=Bar)
    assert counted == [1, 1]
    assert len(list(stream)) == 5


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
    with pytest.raises(ArgumentError, match="enable_lora=True is not supported: adapters"):
        LLM("nowhere", enable_lora=True)
    with pytest.raises(ArgumentError, match="dtype must be one of"):
        LLM("nowhere", dtype="int4")
