"""Chat templates: what transformers renders, in a sandbox, with errors that speak."""

from __future__ import annotations

import pytest

from perfxlm_core.checkpoints.chat_template import ChatTemplate
from perfxlm_core.errors import ModelError, RequestError

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Is 1 < 2 & 'x'?"},
    {"role": "assistant", "content": "  Yes, it"},
]
TOOLS = [{"type": "function", "function": {"name": "f", "description": "<é>", "parameters": {}}}]
TEMPLATES = {
    "trimming": """{%- for m in messages %}
        {% if m.role == 'system' %}{% continue %}{% endif %}
    [{{ m['role'] }}] {{ m['content'] | trim }}
    {% endfor %}
    {% if add_generation_prompt %}[assistant]{% endif %}
""",
    "tools": "{{ tools | tojson }}{{ tools | tojson(indent=2) }}{% for m in messages %}"
    "{{ m.content }}{% endfor %}",
    "variables": "{{ bos_token }}{{ enable_thinking }}{% if missing is defined %}!{% endif %}"
    "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
    "macros": "{% macro show(m) %}<{{ m.role }}>{{ m.content }}{% endmacro %}"
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}"
    "{{ show(m) }}{% endfor %}{{ ns.n }}",
}


def reference(template: str, messages, **more) -> str:
    """Rendered by transformers."""
    from transformers.utils.chat_template_utils import render_jinja_template

    rendered, _ = render_jinja_template([messages], chat_template=template, **more)
    return rendered[0]


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("prompt", [True, False])
def test_templates_render_as_in_transformers(name, prompt):
    more = {"bos_token": "<s>", "enable_thinking": False}
    ours = ChatTemplate(TEMPLATES[name]).render(
        CHAT, add_generation_prompt=prompt, tools=TOOLS, **more
    )
    assert ours == reference(
        TEMPLATES[name], CHAT, add_generation_prompt=prompt, tools=TOOLS, **more
    )


@pytest.mark.parametrize("last", ["  Yes, it", "Yes", [{"type": "text", "text": "Yes, it"}]])
def test_the_final_message_can_be_continued(last):
    template = "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}{{ m.content[0].text }}{% endif %}<end>{% endfor %}"  # noqa: E501
    chat = [*CHAT[:2], {"role": "assistant", "content": last}]
    ours = ChatTemplate(template).render(
        chat, add_generation_prompt=False, continue_final_message=True
    )
    assert ours == reference(template, chat, continue_final_message=True)
    assert not ours.endswith("<end>")


def test_the_real_models_template(tokenizer):
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(chat, tokenize=True)
    text = tokenizer.apply_chat_template(chat)
    assert text.endswith("What is the capital of France?<|im_end|>\n<|im_start|>assistant\n")
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert [i for i in ids if i in tokenizer.all_special_ids] == [1, 2, 1, 2, 1]
    closed = tokenizer.apply_chat_template(chat, add_generation_prompt=False)
    assert text == closed + "<|im_start|>assistant\n"


def test_templates_can_be_replaced_and_named(tokenizer):
    chat = [{"role": "user", "content": "hi"}]
    assert tokenizer.apply_chat_template(chat, chat_template="{{ eos_token }}!") == "<|im_end|>!"
    named = type(tokenizer)(
        tokenizer.backend,
        special_tokens={},
        chat_templates={"default": "plain", "tool_use": "with tools"},
    )
    assert named.apply_chat_template(chat) == "plain"
    assert named.apply_chat_template(chat, chat_template="tool_use") == "with tools"
    assert named.apply_chat_template(chat, tools=TOOLS) == "with tools"


def test_models_without_a_template_say_so(tokenizer):
    bare = type(tokenizer)(tokenizer.backend, special_tokens={})
    with pytest.raises(ModelError, match="no chat template; pass one as chat_template"):
        bare.apply_chat_template([{"role": "user", "content": "hi"}])


@pytest.mark.parametrize(
    "attack",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ raise_exception.__globals__['json'] }}",
        "{% include '/etc/passwd' %}",
        "{{ range(10**9) | list }}",
        "{% set messages[0].x = 1 %}",
    ],
)
def test_the_sandbox_holds(attack):
    with pytest.raises((RequestError, ModelError), match="chat template"):
        ChatTemplate(attack).render([dict(m) for m in CHAT])


def test_a_templates_own_message_reaches_the_user():
    template = ChatTemplate("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(RequestError, match="roles must alternate"):
        template.render(CHAT)


def test_syntax_errors_name_the_line():
    with pytest.raises(ModelError, match="syntax error in line 2"):
        ChatTemplate("ok\n{% if %}")


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "non-empty list"),
        ("hello", "non-empty list"),
        ([{"content": "x"}], r"messages\[0\]"),
        ([{"role": 3}], "the string 'role' is expected"),
        ([CHAT[0], "x"], r"messages\[1\] is 'x'"),
    ],
)
def test_malformed_conversations_are_refused(messages, message):
    with pytest.raises(RequestError, match=message):
        ChatTemplate("x").render(messages)


def test_what_cannot_be_continued_is_refused():
    with pytest.raises(RequestError, match="exclude each other"):
        ChatTemplate("x").render(CHAT, continue_final_message=True)
    with pytest.raises(RequestError, match="does not appear"):
        ChatTemplate("x").render(CHAT, add_generation_prompt=False, continue_final_message=True)


def test_dates_are_available():
    year = ChatTemplate("{{ strftime_now('%Y') }}").render(CHAT)
    assert len(year) == 4
    assert year.isdigit()
