"""Reasoning parsers: both parts, however the text comes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfxlm_core.errors import ArgumentError
from perfxlm_core.serve.reasoning import Part, ReasoningParser, parse, reasoning_parsers

from .pieces import cut

MARKUP = [
    *("<think>", "</think>", "<seed:think>", "</seed:think>", "[THINK]", "[/THINK]", "<", "</thi"),
    *("Here is my thought process:", "Here's my response:", "Here is my response:", "Here", "nk>"),
    *("why", " ", "\n", "42", "é"),
]
texts = st.lists(st.sampled_from(MARKUP), max_size=10).map("".join)
prompts = st.sampled_from(["", "user: hi\n<think>\n", "<think>\n\n</think>\n\n", "[THINK]"])


@pytest.mark.parametrize("name", reasoning_parsers.table)
@given(text=texts, prompt=prompts, data=st.data())
def test_pieces_do_not_matter(name, text, prompt, data):
    whole = parse(reasoning_parsers.find(name)(), text, prompt)
    parser = reasoning_parsers.find(name)()
    assert isinstance(parser, ReasoningParser)
    parser.prompted(prompt)
    parts = [*map(parser.feed, data.draw(cut(text))), parser.finish()]
    assert "".join(p.reasoning for p in parts) == whole.reasoning
    assert "".join(p.content for p in parts) == whole.content
    assert len(whole.reasoning) + len(whole.content) <= len(text)


CASES = [
    ("deepseek_r1", "why\n</think>\n\n42", "", Part("why\n", "\n\n42")),
    ("deepseek_r1", "<think>\nwhy</think>42", "", Part("\nwhy", "42")),
    ("deepseek_r1", "still thinking", "", Part("still thinking", "")),
    ("deepseek_r1", "", "", Part("", "")),
    ("deepseek_r1", "  ", "", Part("  ", "")),
    ("deepseek_r1", "42", "<think>\n\n</think>\n\n", Part("", "42")),
    ("qwen3", "\n<think>why</think>42", "", Part("why", "42")),
    ("qwen3", "42 </think>", "", Part("", "42 </think>")),
    ("qwen3", " 42", "", Part("", " 42")),
    ("qwen3", "why</think>42", "assistant\n<think>\n", Part("why", "42")),
    ("qwen3", "<think>", "assistant\n<think>\n\n</think>\n\n", Part("", "<think>")),
    ("qwen3", "<think>cut off </thi", "", Part("cut off </thi", "")),
    ("qwen3", "<thin", "", Part("", "<thin")),
    ("qwen3", "<think>a</think>b</think>c", "", Part("a", "b</think>c")),
    ("seed_oss", "<seed:think>why</seed:think>42", "", Part("why", "42")),
    ("mistral", "[THINK]why[/THINK]42", "", Part("why", "42")),
    (
        "granite",
        "Here is my thought process: why Here's my response: 42",
        "",
        Part(" why ", " 42"),
    ),
    ("granite", "Here is my cat", "", Part("", "Here is my cat")),
]


@pytest.mark.parametrize(("name", "text", "prompt", "parts"), CASES)
def test_parts(name, text, prompt, parts):
    assert parse(reasoning_parsers.find(name)(), text, prompt) == parts


def test_thoughts_stream():
    parser = reasoning_parsers.find("qwen3")()
    assert [parser.feed(t) for t in ("<think>", "so", " then", "</", "think>", "42")] == [
        Part(),
        Part("so"),
        Part(" then"),
        Part(),
        Part(),
        Part(content="42"),
    ]


def test_unknown_names_are_refused():
    with pytest.raises(ArgumentError, match="deepseek_r1"):
        reasoning_parsers.find("deepseek")
