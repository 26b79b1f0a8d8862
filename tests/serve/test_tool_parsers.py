"""Tool parsers: what they find, that pieces do not matter, and that nothing makes them raise."""

import json
import time
from itertools import count

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from perfxlm_core.errors import ArgumentError, PluginError, RequestError
from perfxlm_core.serve.tools import Answer, ReadsTools, ToolParser, forced, parse, tool_parsers
from perfxlm_core.serve.tools.characters import HELD
from perfxlm_core.serve.tools.forced import RequiredCalls
from perfxlm_core.serve.tools.mistral import mistral_id
from perfxlm_core.serve.tools.parameter_types import TYPES

from .pieces import cut

NAMES = ["hermes", "llama3_json", "mistral", "pythonic", "granite", "qwen3_coder"]
MARKUP = [
    *("<tool_call>", "</tool_call>", "<|tool_call|>", "<|python_tag|>", "[TOOL_CALLS]", "[ARGS]"),
    *("<|python_start|>", "<|python_end|>", "[CALL_ID]", "[", "]", "{", "}", "(", ")", ",", ";"),
    *('"name"', '"arguments"', '"parameters"', ":", '"', "'", "\\", "f", "get_weather", " ", "\n"),
    *('{"name": "f", "arguments": {"a": 1}}', "f(a=1)", 'f(a="x)")', "null", "true", "-1.5e3"),
    *("<function=f>", "<parameter=a>", "</parameter>", "</function>", "<parameter=", "<function="),
    *('{"a": "\\u00e9"}', "é", "<", "hello", "\ufeff", "\x00", "<tool", "[TOOL"),
]
text_of_markup = st.lists(st.sampled_from(MARKUP), max_size=14).map("".join)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)  # fmt: skip
identifiers = st.from_regex(r"[a-z_][a-z0-9_]{0,9}", fullmatch=True)
arguments = st.dictionaries(identifiers, json_values, max_size=4)
calls = st.lists(
    st.tuples(identifiers, arguments), min_size=1, max_size=3, unique_by=lambda call: call[0]
)


def made(name):
    ids = count()
    return tool_parsers.find(name)(lambda: f"id-{next(ids)}")


def in_pieces(parser, pieces):
    answer = Answer()
    for piece in pieces:
        answer.add(parser.feed(piece))
    answer.add(parser.finish())
    return answer


def found(answer):
    return [(call.name, json.loads(call.arguments)) for call in answer.calls]


@pytest.mark.parametrize("name", NAMES)
@given(text=text_of_markup, data=st.data())
def test_pieces_do_not_matter_and_nothing_raises(name, text, data):
    whole = parse(made(name), text)
    assert in_pieces(made(name), data.draw(cut(text))) == whole
    assert in_pieces(made(name), text) == whole
    if not whole.calls:
        assert whole.content == text


@pytest.mark.parametrize("name", NAMES)
@given(text=text_of_markup)
def test_short_calls_are_whole_or_content(name, text):
    for call in parse(made(name), text).calls:
        assert isinstance(json.loads(call.arguments), dict)


def hermes(call):
    return f"<tool_call>\n{as_json(call, 'arguments')}\n</tool_call>\n"


def as_json(call, key):
    return json.dumps({"name": call[0], key: call[1]}, ensure_ascii=False)


def python_call(call):
    return f"{call[0]}({', '.join(f'{k}={v!r}' for k, v in call[1].items())})"


def tagged_call(call):
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in call[1].items()}
    parameters = "".join(f"<parameter={k}>\n{v}\n</parameter>\n" for k, v in texts.items())
    return f"<tool_call>\n<function={call[0]}>\n{parameters}</function>\n</tool_call>\n"


def tools_of(wanted):
    """Tools whose parameters have the types of these calls' values."""
    return [
        {"function": {"name": name, "parameters": {"properties": {
            key: {"type": TYPES[type(value)]} for key, value in given.items()}}}}
        for name, given in wanted
    ]  # fmt: skip


WRITTEN = {
    "qwen3_coder": lambda cs: "".join(map(tagged_call, cs)),
    "hermes": lambda cs: "".join(map(hermes, cs)),
    "llama3_json": lambda cs: "; ".join(as_json(c, "parameters") for c in cs),
    "mistral": lambda cs: f"[TOOL_CALLS] [{', '.join(as_json(c, 'arguments') for c in cs)}]",
    "granite": lambda cs: f"<|tool_call|>[{', '.join(as_json(c, 'arguments') for c in cs)}]",
    "pythonic": lambda cs: f"[{', '.join(map(python_call, cs))}]",
}


@pytest.mark.parametrize("name", NAMES)
@given(wanted=calls, data=st.data())
def test_calls_written_as_the_model_was_taught_are_found(name, wanted, data):
    text, parser = WRITTEN[name](wanted), made(name)
    if isinstance(parser, ReadsTools):
        parser.take_tools(tools_of(wanted))
    answer = in_pieces(parser, data.draw(cut(text)))
    assert found(answer) == wanted
    assert answer.content == ""
    assert [call.id for call in answer.calls] == [f"id-{n}" for n in range(len(wanted))]


@given(wanted=calls)
def test_mistral_newer_forms(wanted):
    for form in ("[TOOL_CALLS]{}{}", "[TOOL_CALLS]{}[ARGS]{}", "[TOOL_CALLS]{}[CALL_ID]x1[ARGS]{}"):
        text = "".join(form.format(name, json.dumps(a)) for name, a in wanted)
        assert found(parse(made("mistral"), text)) == wanted


CONTENT = [
    ("hermes", "Just text with < and > in it.\n"),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"a": 1,,}}</tool_call>'),
    ("hermes", '<tool_call>{"name": "f", "arguments": {\'a\': 1}}</tool_call>'),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"a": 1}'),
    ("hermes", '<tool_call>{"arguments": {"a": 1}}</tool_call>'),
    ("hermes", '<tool_call>{"name": 7, "arguments": {}}</tool_call>'),
    ("hermes", '<tool_call>{"name": "f", "name": "g", "arguments": {}}</tool_call>'),
    ("hermes", '<tool_call>{"name": "f", "arguments": [1]}</tool_call>'),
    ("hermes", '<tool_call>{"name": "f", "arguments": "[1]"}</tool_call>'),
    ("hermes", '<tool_call>{"name": "f", "arguments": "{\\"a\\": \\"\\ud800\\"}"}</tool_call>'),
    ("hermes", '<tool_call>{"name": "\\ud800", "arguments": {}}</tool_call>'),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"a": ' + "[" * 5000),
    ("llama3_json", '{"answer": 42}'),
    ("llama3_json", 'Use {"name": "f", "parameters": {}}'),
    ("mistral", "[TOOL_CALLS] none"),
    ("qwen3_coder", "<tool_call>\n<function=f>\n<parameter=a>\n1\n</parameter>"),
    ("qwen3_coder", "<tool_call><function=f><parameter=a>1</parameter> oops</function>"),
    ("qwen3_coder", "<function=><parameter=a>1</parameter></function>"),
    ("qwen3_coder", "<function=f><parameter=>1</parameter></function>"),
    ("qwen3_coder", "<function=f><parameter=a>1</parameter><parameter=a>2</parameter></function>"),
    ("qwen3_coder", "A <tool_call> is written with <function=NAME>, if you ask."),
    ("pythonic", "[a link](https://example.org)"),
    ("pythonic", "[1, 2, 3]"),
    ("pythonic", "[f(x)]"),
    ("pythonic", "[f(1)]"),
    ("pythonic", "[f(a=1"),
    ("pythonic", "[f(a=1e999)]"),
    ("pythonic", "[f(a={1, 2})]"),
    ("pythonic", "[f(**{'a': 1})]"),
    ("pythonic", "[f(a='\\ud800')]"),
    ("pythonic", "[f(a=" + "(" * 3000 + ")" * 3000 + ")]"),
    ("pythonic", "[f(a=__import__('os').getcwd())]"),
]


@pytest.mark.parametrize(("name", "text"), CONTENT)
def test_what_is_no_call_is_content(name, text):
    answer = parse(made(name), text)
    assert answer.calls == []
    assert answer.content == text


def test_text_around_calls_is_content_and_white_space_is_not():
    call = hermes(("f", {"a": 1}))
    answer = parse(made("hermes"), f"Let me see.\n{call}{call} \n And?\n")
    assert answer.content == "Let me see.And?\n"
    assert found(answer) == [("f", {"a": 1})] * 2


def test_a_bad_call_beside_a_good_one():
    bad = '<tool_call>{"name": "f", oops}</tool_call>'
    answer = parse(made("hermes"), bad + hermes(("g", {})))
    assert answer.content == bad
    assert found(answer) == [("g", {})]


@pytest.mark.parametrize(
    ("given_arguments", "meant"),
    [("", "{}"), (', "arguments": null', "{}"), (', "arguments": "{\\"a\\": 1}"', '{"a": 1}')],
)
def test_arguments_that_are_missing_null_or_quoted(given_arguments, meant):
    text = f'<tool_call>{{"name": "f"{given_arguments}}}</tool_call>'
    assert [c.arguments for c in parse(made("hermes"), text).calls] == [meant]


def test_long_arguments_stream_and_short_ones_come_whole():
    parser = made("hermes")
    assert not parser.feed('<tool_call>{"name": "f", "arguments": {"a": "')
    pieces = [parser.feed("x" * 50) for _ in range(10)]
    sent = [delta.calls for delta in pieces if delta]
    assert sent[0][0].name == "f"
    assert sum(len(c.arguments or "") for calls in sent for c in calls) > HELD
    assert len(sent) >= 4  # and not all at once


def test_what_breaks_an_announced_call_is_content():
    long = "x" * HELD
    answer = parse(made("hermes"), f'<tool_call>{{"name": "f", "arguments": {{"a": "{long}", oops')
    assert [c.name for c in answer.calls] == ["f"]
    assert answer.calls[0].arguments == f'{{"a": "{long}", '
    assert answer.content == "oops"


def tagged(parameters, value, schema=None):
    """What is read of one parameter `a`."""
    parser = made("qwen3_coder")
    function = {"name": "f", "parameters": {"properties": {"a": parameters}, **(schema or {})}}
    parser.take_tools([{"type": "function", "function": function}])
    text = f"<tool_call><function=f><parameter=a>{value}</parameter></function></tool_call>"
    ((_, given),) = found(parse(parser, text))
    return given["a"]


@pytest.mark.parametrize(
    ("schema", "text", "meant"),
    [
        ({"type": "string"}, "5", "5"),
        ({"type": "integer"}, "5", 5),
        ({"type": "integer"}, "\n 5 \n", 5),
        ({"type": "number"}, "5", 5),
        ({"type": "integer"}, "5.5", "5.5"),
        ({"type": "integer"}, "five", "five"),
        ({"type": "integer"}, "9" * 5000, "9" * 5000),
        ({"type": "boolean"}, "True", True),
        ({"type": "string"}, "null", "null"),
        ({"type": ["string", "null"]}, "None", None),
        ({"type": ["string", "null"]}, "5", "5"),
        ({"type": "array"}, "['a', 1]", ["a", 1]),
        ({"type": "array"}, "[" * 5000, "[" * 5000),
        ({"type": "object"}, '{"b": NaN}', '{"b": NaN}'),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "null", None),
        ({"enum": [1, 2]}, "2", 2),
        ({"enum": ["1", "2"]}, "2", "2"),
        ({"$ref": "#/$defs/count"}, "3", 3),
        ({"$ref": "#/$defs/loop"}, "3", 3),
        ({}, "[1]", [1]),
        ({}, "some text", "some text"),
        (True, "1", 1),
    ],
)
def test_tagged_values_have_the_types_of_the_schema(schema, text, meant):
    loop = {"$ref": "#/$defs/loop"}
    assert tagged(schema, text, {"$defs": {"count": {"type": "integer"}, "loop": loop}}) == meant


def test_tagged_calls_with_tags_left_out():
    text = "I call.\n<function=f>\n<parameter=a>\n1\n<parameter=b>\n</b>\n\n</function> Done."
    answer = parse(made("qwen3_coder"), text)
    assert found(answer) == [("f", {"a": "1", "b": "</b>\n"})]
    assert answer.content == "I call. Done."


def test_a_long_string_between_tags_streams():
    parser = made("qwen3_coder")
    parser.feed("<tool_call>\n<function=write>\n<parameter=text>\n")
    sent = [parser.feed('print("x") < 1\n').calls for _ in range(40)]
    assert sum(bool(piece) for piece in sent) > 15
    rest = parser.feed("</parameter>\n</function>\n</tool_call>").calls
    pieces = [p.arguments or "" for calls in [*sent, rest] for p in calls]
    assert json.loads("".join(pieces)) == {"text": 'print("x") < 1\n' * 39 + 'print("x") < 1'}


def test_openai_pieces():
    deltas = made("hermes").feed(hermes(("f", {"a": 1}))).calls
    head = {"name": "f", "arguments": ""}
    assert [d.as_openai() for d in deltas] == [
        {"index": 0, "id": "id-0", "type": "function", "function": head},
        {"index": 0, "function": {"arguments": '{"a": 1}'}},
    ]


def test_ids():
    assert (
        tool_parsers.find("hermes")()
        .feed(hermes(("f", {})))
        .calls[0]
        .id.startswith("chatcmpl-tool-")
    )
    assert len({mistral_id() for _ in range(99)}) == 99
    assert all(len(mistral_id()) == 9 and mistral_id().isalnum() for _ in range(9))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("unit", ["hello ", " ", "<tool_call>", "[TOOL_CALLS]f{", "[f(a='", "\n"])
def test_time_is_linear(name, unit):
    def seconds(copies):
        parser, start = made(name), time.process_time()
        for _ in range(copies):
            parser.feed(unit)
        parser.finish()
        return time.process_time() - start

    small = min(seconds(1000) for _ in range(3))
    assert min(seconds(8000) for _ in range(3)) < 8 * small * 4 + 0.01


WEATHER = {
    "type": "object",
    "properties": {"city": {"$ref": "#/$defs/city"}},
    "required": ["city"],
    "$defs": {"city": {"enum": ["Oslo", "Rome"]}},
}
TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "now"}},
]


def test_required_is_a_schema_and_streams_at_once():
    plan = forced(TOOLS, "required")
    schema = plan.schema
    assert [i["properties"]["name"]["enum"] for i in schema["items"]["anyOf"]] == [
        ["get_weather"],
        ["now"],
    ]
    reference = schema["items"]["anyOf"][0]["properties"]["parameters"]["properties"]["city"][
        "$ref"
    ]
    target = schema
    for step in reference.removeprefix("#/").split("/"):
        target = target[int(step)] if isinstance(target, list) else target[step]
    assert target == {"enum": ["Oslo", "Rome"]}
    assert forced(TOOLS, "required", parallel=False).schema["maxItems"] == 1
    pieces = [plan.parser.feed(c) for c in '[{"name": "get_weather", "parameters": {"city"']
    assert sum(bool(p) for p in pieces) > 5


@given(wanted=calls, data=st.data())
def test_required_in_pieces(wanted, data):
    text = json.dumps([{"name": n, "parameters": a} for n, a in wanted])
    assert found(in_pieces(RequiredCalls(), data.draw(cut(text)))) == wanted


@given(text=text_of_markup, data=st.data())
@example(text='[{"name": "f", "parameters": {"a', data=None)
def test_required_survives_anything(text, data):
    whole = parse(RequiredCalls(lambda: "id"), text)
    if data is not None:
        assert in_pieces(RequiredCalls(lambda: "id"), data.draw(cut(text))) == whole


def test_named_is_the_whole_answer():
    plan = forced(TOOLS, {"type": "function", "function": {"name": "get_weather"}})
    assert plan.schema == WEATHER
    answer = in_pieces(plan.parser, ["", '{"city": ', '"Rome"}'])
    assert found(answer) == [("get_weather", {"city": "Rome"})]


def test_the_choice_is_the_models():
    assert forced(TOOLS, "auto") is None
    assert forced([], "none") is None


@pytest.mark.parametrize(
    ("tools", "choice", "word"),
    [
        ([], "required", "no tools"),
        (TOOLS, {"type": "function", "function": {"name": "get_wether"}}, "get_weather, now"),
        (TOOLS, "always", "expected"),
        (TOOLS, {"type": "function"}, "expected"),
    ],
)
def test_choices_that_cannot_be_met_are_refused(tools, choice, word):
    with pytest.raises(RequestError, match=word):
        forced(tools, choice)


@pytest.mark.parametrize("name", tool_parsers.table)
def test_every_name_of_the_table(name):
    assert isinstance(tool_parsers.find(name)(), ToolParser)


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(ArgumentError, match="did you mean 'hermes'"):
        tool_parsers.find("hermez")


def test_third_parties_enter_by_entry_point(tmp_path, monkeypatch):
    (tmp_path / "shout.py").write_text(
        "from perfxlm_core.serve.tools.hermes import Hermes\n"
        "class Shout(Hermes):\n    openings = ('CALL',)\n"
    )
    info = tmp_path / "shout-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shout\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[perfxlm.tool_parsers]\nshout = shout:Shout\nlost = shout:Lost\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert "shout" in tool_parsers.names()
    answer = parse(tool_parsers.find("shout")(), 'CALL{"name": "f"}')
    assert found(answer) == [("f", {})]
    with pytest.raises(PluginError, match="lost"):
        tool_parsers.find("lost")
