"""One answer taken apart as it comes: reasoning, content, calls of tools."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perfxlm_core.serve.reasoning import ReasoningParser
    from perfxlm_core.serve.tools import CallDelta, ToolParser


@dataclass(slots=True)
class Piece:
    """What a piece of text brought; any part may be empty."""

    reasoning: str = ""
    content: str = ""
    calls: tuple[CallDelta, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.reasoning or self.content or self.calls)


class AnswerReader:
    """A reasoning parser first, then a tool parser on the content; either may be missing."""

    def __init__(self, reasoning: ReasoningParser | None, tools: ToolParser | None) -> None:
        self._reasoning = reasoning
        self._tools = tools

    def feed(self, text: str) -> Piece:
        """The next piece of the answer."""
        if self._reasoning is None:
            return self._content("", text)
        part = self._reasoning.feed(text)
        return self._content(part.reasoning, part.content)

    def finish(self) -> Piece:
        """The answer has ended; gives what was still held back."""
        piece = Piece()
        if self._reasoning is not None:
            part = self._reasoning.finish()
            piece = self._content(part.reasoning, part.content)
        if self._tools is not None:
            last = self._tools.finish()
            piece.content += last.content
            piece.calls += last.calls
        return piece

    def _content(self, reasoning: str, text: str) -> Piece:
        if self._tools is None or not text:
            return Piece(reasoning, text)
        delta = self._tools.feed(text)
        return Piece(reasoning, delta.content, delta.calls)
