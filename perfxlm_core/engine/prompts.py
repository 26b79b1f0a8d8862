"""The forms a prompt can take, and the one form that the engine uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NotRequired, TypeAlias, TypedDict

import numpy as np

from perfxlm_core.errors import ArgumentError


class TextPrompt(TypedDict):
    """A prompt that the tokenizer will encode."""

    prompt: str
    cache_salt: NotRequired[str]


class TokensPrompt(TypedDict):
    """A prompt that is already token ids."""

    prompt_token_ids: list[int]
    prompt: NotRequired[str]
    cache_salt: NotRequired[str]


PromptType: TypeAlias = str | list[int] | TextPrompt | TokensPrompt


@dataclass(frozen=True)
class Prompt:
    """A prompt in the engine's terms; exactly one of text and ids may be missing.

    `cache_salt` keeps its KV blocks apart from those of prompts with another salt.
    """

    text: str | None
    token_ids: list[int] | None
    cache_salt: str = ""


def parse_prompt(prompt: PromptType) -> Prompt:
    """The engine's form of one prompt.

    Raises:
        ArgumentError: it is none of the accepted forms.
    """
    if isinstance(prompt, str):
        return Prompt(prompt, None)
    if isinstance(prompt, Mapping):
        return _parse_dict(prompt)
    ids = _token_ids(prompt)
    if ids is not None:
        return Prompt(None, ids)
    raise ArgumentError(
        f"a prompt is {type(prompt).__name__}; expected a string, a list of token ids, "
        "{'prompt': str} or {'prompt_token_ids': list[int]}"
    )


def parse_prompts(prompts: PromptType | Sequence[PromptType]) -> list[Prompt]:
    """A list of prompts from one prompt or a sequence of them.

    Raises:
        ArgumentError: one of them is of none of the accepted forms.
    """
    if isinstance(prompts, str | Mapping):
        return [parse_prompt(prompts)]
    given: Any = prompts
    several = given.tolist() if isinstance(given, np.ndarray) else given
    if isinstance(several, bytes | bytearray) or not isinstance(several, Sequence):
        raise ArgumentError(
            f"prompts is {type(prompts).__name__}; expected a prompt or a sequence of prompts"
        )
    if several and all(_is_id(p) for p in several):
        return [parse_prompt(several)]  # type: ignore[arg-type]  # all are ids, as just checked
    return [parse_prompt(p) for p in several]


def _parse_dict(prompt: Mapping[str, Any]) -> Prompt:
    unknown = prompt.keys() - {"prompt", "prompt_token_ids", "cache_salt"}
    if unknown:
        raise ArgumentError(
            f"a prompt has the key {sorted(unknown)[0]!r}; supported keys are 'prompt', "
            "'prompt_token_ids' and 'cache_salt'"
        )
    text, given, salt = (prompt.get(k) for k in ("prompt", "prompt_token_ids", "cache_salt"))
    ids = None if given is None else _token_ids(given)
    if given is not None and ids is None:
        raise ArgumentError("'prompt_token_ids' must be a list of integers")
    if text is None and ids is None:
        raise ArgumentError("a prompt needs the key 'prompt' or 'prompt_token_ids'")
    if not isinstance(text, str | None) or not isinstance(salt, str | None):
        raise ArgumentError("'prompt' and 'cache_salt' must be strings")
    return Prompt(text, ids, salt or "")


def _is_id(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _token_ids(value: Any) -> list[int] | None:  # noqa: ANN401 - what a user passed
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, str | bytes | bytearray | Mapping) or not isinstance(value, Sequence):
        return None
    return [int(i) for i in value] if all(_is_id(i) for i in value) else None


Message: TypeAlias = Mapping[str, Any]
"""A turn of a conversation: `role`, `content`, and whatever else the chat template reads."""


def parse_conversations(messages: Any) -> list[list[dict[str, Any]]]:  # noqa: ANN401 - checked
    """A list of conversations from one or several, each message's content made a string.

    Raises:
        ArgumentError: a message is not a mapping with a role, or its content is not text.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise ArgumentError(
            "messages must be a conversation, [{'role': 'user', 'content': ...}, ...], "
            "or a list of conversations"
        )
    several = not isinstance(messages[0], Mapping)
    conversations = messages if several else [messages]
    return [[_message(m) for m in conversation] for conversation in conversations]


def _message(message: Any) -> dict[str, Any]:  # noqa: ANN401 - what a user passed
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise ArgumentError(f"a message is a mapping with 'role' and 'content', got {message!r}")
    content = message.get("content")
    if isinstance(content, Sequence) and not isinstance(content, str):
        content = "\n".join(_text_part(part) for part in content)
    elif not isinstance(content, str | None):
        raise ArgumentError(f"a message's content must be text, got {type(content).__name__}")
    return {**message, "content": content}


def _text_part(part: Any) -> str:  # noqa: ANN401 - what a user passed
    if isinstance(part, str):
        return part
    if isinstance(part, Mapping) and part.get("type") == "text":
        text = part.get("text")
        if isinstance(text, str):
            return text
        raise ArgumentError(
            f"a message's content has a part whose 'text' is {text!r}, not a string"
        )
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    raise ArgumentError(
        f"a message's content has a part of type {kind!r}; only {{'type': 'text', 'text': str}} "
        "is supported"
    )
