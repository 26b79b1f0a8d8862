"""Chat templates: a conversation rendered by the model's own Jinja template, in a sandbox.

A template is code from an untrusted file. It runs in Jinja's immutable sandbox, which has no
access to attributes, files or modules, and cannot change what it is given.

Source: the template dialect is that of Hugging Face transformers (`apply_chat_template`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn

from perfxlm_core.errors import ModelError, RequestError

if TYPE_CHECKING:
    from jinja2 import Template
    from jinja2.sandbox import ImmutableSandboxedEnvironment

Message = Mapping[str, Any]
"""One turn: `role`, `content`, and whatever else the model's template reads."""


class ChatTemplate:
    """A compiled template; rendering it has no effect on it, so threads may share it."""

    def __init__(self, source: str) -> None:
        """Compiles the template.

        Raises:
            ModelError: it has a syntax error.
        """
        from jinja2 import TemplateError

        self.source = source
        try:
            self._template: Template = _environment().from_string(source)
        except (TemplateError, RecursionError) as error:
            line = getattr(error, "lineno", None)
            where = f" in line {line}" if line else ""
            raise ModelError(
                f"chat template: syntax error{where}: {error}; "
                "correct the model's template or pass another one as chat_template"
            ) from error

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        **variables: Any,  # noqa: ANN401 - templates define what they read
    ) -> str:
        """The conversation as the text that the model was trained on.

        Args:
            messages: The turns, oldest first.
            add_generation_prompt: Whether to open an answer after the last turn.
            continue_final_message: Whether to end within the last turn, so that the model goes
                on with it.
            variables: Everything else that the template may read: `tools`, `bos_token` ...

        Raises:
            RequestError: the conversation is malformed, or the template refuses it.
        """
        _check_conversation(messages, add_generation_prompt, continue_final_message)
        try:
            text = self._template.render(
                messages=messages, add_generation_prompt=add_generation_prompt, **variables
            )
        except Exception as error:  # a template may fail in any way, as any program
            raise RequestError(f"chat template: {type(error).__name__}: {error}") from error
        return _cut_after_last(text, messages[-1]) if continue_final_message else text


def _check_conversation(messages: object, prompt: bool, carry_on: bool) -> None:
    if prompt and carry_on:
        raise RequestError(
            "add_generation_prompt and continue_final_message exclude each other; set one to False"
        )
    if isinstance(messages, str | bytes) or not isinstance(messages, Sequence) or not messages:
        raise RequestError(
            f"messages is {messages!r:.80}; a non-empty list of {{'role': ..., 'content': ...}} "
            "is expected"
        )
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise RequestError(
                f"messages[{i}] is {message!r:.80}; a dict with the string 'role' is expected"
            )


def _cut_after_last(text: str, message: Message) -> str:
    """The rendered text up to the end of the last message's content."""
    content = message.get("content")
    if isinstance(content, Sequence) and not isinstance(content, str):
        texts = [part["text"] for part in content if isinstance(part, Mapping) and "text" in part]
        content = texts[-1] if texts else None
    wanted = content.strip() if isinstance(content, str) else ""
    begin = text.rfind(wanted) if wanted else -1
    if begin < 0:
        raise RequestError(
            "continue_final_message: the last message's text does not appear in what the chat "
            "template rendered; set add_generation_prompt instead"
        )
    end = begin + len(wanted)
    if isinstance(content, str) and text[begin:].startswith(content.lstrip()):
        end = begin + len(content.lstrip())
    return text[:end]


def _environment() -> ImmutableSandboxedEnvironment:
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _generation_extension()]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _generation_extension() -> type[Any]:
    """The `{% generation %}` block: marks a model's own words for training; inert here."""
    from jinja2 import nodes
    from jinja2.ext import Extension
    from jinja2.parser import Parser

    class Generation(Extension):
        tags = {"generation"}  # noqa: RUF012 - the attribute that Jinja reads

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    return Generation


def _to_json(
    value: Any,  # noqa: ANN401 - whatever the conversation holds
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON without HTML escapes, unlike Jinja's own filter."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: str) -> NoReturn:
    from jinja2 import TemplateError

    raise TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)
