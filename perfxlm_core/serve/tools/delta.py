"""What a tool parser gives: content, and calls in OpenAI's pieces."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable
from uuid import uuid4


@dataclass(frozen=True, slots=True)
class CallDelta:
    """A piece of a call: first its id and name, then its arguments.

    Attributes:
        index: Which call of this answer, from 0.
        id: Only in the first piece.
        name: Only in the first piece.
        arguments: A further piece of the JSON text.
    """

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str | None = None

    def as_openai(self) -> dict[str, Any]:
        """The piece as it goes into `delta.tool_calls`."""
        if self.name is None:
            return {"index": self.index, "function": {"arguments": self.arguments}}
        function = {"name": self.name, "arguments": self.arguments or ""}
        return {"id": self.id, "type": "function", "index": self.index, "function": function}


@dataclass(frozen=True, slots=True)
class Delta:
    """What one piece of text brought; either part may be empty."""

    content: str = ""
    calls: tuple[CallDelta, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.content or self.calls)


@dataclass(slots=True)
class Call:
    """A whole call; `arguments` is JSON text."""

    id: str
    name: str
    arguments: str = ""

    def as_openai(self) -> dict[str, Any]:
        """The call as it goes into `message.tool_calls`."""
        function = {"name": self.name, "arguments": self.arguments}
        return {"id": self.id, "type": "function", "function": function}


@dataclass(slots=True)
class Answer:
    """A whole text, taken apart."""

    content: str = ""
    calls: list[Call] = field(default_factory=list)

    def add(self, delta: Delta) -> None:
        """Go on with what came."""
        self.content += delta.content
        for piece in delta.calls:
            if piece.name is not None:
                self.calls.append(Call(piece.id or "", piece.name))
            self.calls[piece.index].arguments += piece.arguments or ""


@runtime_checkable
class ToolParser(Protocol):
    """Takes one answer apart as it is written; a new parser for each answer.

    However the text is cut into pieces, content and calls are the same in the end. No text makes
    a parser raise: what is no call is content.

    Attributes:
        keeps_special_tokens: The markup is made of special tokens, which the detokenizer must
            therefore not leave out.
    """

    keeps_special_tokens: bool

    def feed(self, text: str) -> Delta:
        """The next piece of the answer."""

    def finish(self) -> Delta:
        """The answer has ended; gives what was still held back."""


@runtime_checkable
class ReadsTools(Protocol):
    """A tool parser that needs the request's tools: its format has values without types."""

    def take_tools(self, tools: Sequence[Mapping[str, Any]]) -> None:
        """Learn the tools, in OpenAI's form, before the first piece."""


def parse(parser: ToolParser, text: str) -> Answer:
    """A whole text at once."""
    answer = Answer()
    answer.add(parser.feed(text))
    answer.add(parser.finish())
    return answer


CallId = Callable[[], str]


def call_id() -> str:
    """A new id in vLLM's form."""
    return f"chatcmpl-tool-{uuid4().hex[:16]}"
