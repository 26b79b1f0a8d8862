"""Reasoning in a block of its own, between markers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class Part:
    """What one piece of text brought; either part may be empty."""

    reasoning: str = ""
    content: str = ""


@runtime_checkable
class ReasoningParser(Protocol):
    """Takes one answer apart as it is written; a new parser for each answer.

    However the text is cut into pieces, reasoning and content are the same in the end.
    """

    keeps_special_tokens: bool

    def prompted(self, prompt: str) -> None:
        """What the answer goes on from, before the first piece: it may have opened the block."""

    def feed(self, text: str) -> Part:
        """The next piece of the answer."""

    def finish(self) -> Part:
        """The answer has ended; gives what was still held back."""


def parse(parser: ReasoningParser, text: str, prompt: str = "") -> Part:
    """A whole text at once."""
    parser.prompted(prompt)
    parts = (parser.feed(text), parser.finish())
    return Part("".join(p.reasoning for p in parts), "".join(p.content for p in parts))


class State(Enum):
    """Where in the answer a parser is."""

    BEFORE = "before the block, if there is one"
    INSIDE = "inside"
    AFTER = "content"


class Block:
    """One block at the start of the answer; all behind it is content.

    A block that is never closed is reasoning to the end. Markers are dropped, and so is white
    space in front of the opening one; all other text is kept as it is.

    Attributes:
        opening: Markers, one of which opens the block.
        closing: Markers, one of which closes it.
        implied: The block is open from the start, marker or not, unless the prompt closed it.
    """

    keeps_special_tokens = True
    opening: tuple[str, ...] = ("<think>",)
    closing: tuple[str, ...] = ("</think>",)
    implied = False

    def __init__(self) -> None:
        self._state = State.BEFORE
        self._blank: list[str] = []
        self._seen = ""

    def prompted(self, prompt: str) -> None:
        """A template may open the block, or close it to have no reasoning at all."""
        end = prompt[-256:].rstrip()
        if end.endswith(self.closing):
            self._state = State.AFTER
        elif end.endswith(self.opening):
            self._state = State.INSIDE

    def feed(self, text: str) -> Part:
        """The next piece of the answer."""
        if self._state is State.AFTER:
            return Part(content=text)
        if self._state is State.BEFORE:
            text = self._after_blank(text)
        self._seen += text
        if self._state is State.BEFORE:
            self._look_for_opening()
        return self._give()

    def finish(self) -> Part:
        """The answer has ended; gives what was still held back."""
        if self._state is State.BEFORE:
            self._go_without_opening()
        seen, self._seen = self._seen, ""
        inside = self._state is State.INSIDE
        return Part(reasoning=seen) if inside else Part(content=seen)

    def _after_blank(self, text: str) -> str:
        """The text without the white space that the answer begins with, which is kept."""
        rest = text if self._seen else text.lstrip()
        self._blank.append(text[: len(text) - len(rest)])
        return rest

    def _look_for_opening(self) -> None:
        """Leave `BEFORE` as soon as the text says which way."""
        for marker in self.opening:
            if self._seen.startswith(marker):
                self._state, self._seen = State.INSIDE, self._seen[len(marker) :]
                return
        if not any(marker.startswith(self._seen) for marker in self.opening):
            self._go_without_opening()

    def _go_without_opening(self) -> None:
        self._seen = "".join(self._blank) + self._seen
        self._state = State.INSIDE if self.implied else State.AFTER

    def _give(self) -> Part:
        if self._state is State.INSIDE:
            return self._inside()
        if self._state is State.BEFORE:
            return Part()
        seen, self._seen = self._seen, ""
        return Part(content=seen)

    def _inside(self) -> Part:
        found = [(at, m) for m in self.closing if (at := self._seen.find(m)) >= 0]
        if found:
            at, marker = min(found)
            seen, self._seen, self._state = self._seen, "", State.AFTER
            return Part(seen[:at], seen[at + len(marker) :])
        kept = max(overlap(self._seen, marker) for marker in self.closing)
        sure = len(self._seen) - kept
        seen, self._seen = self._seen[:sure], self._seen[sure:]
        return Part(reasoning=seen)


def overlap(text: str, marker: str) -> int:
    """How many characters at the end of a text may be the start of a marker."""
    longest = min(len(text), len(marker) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(marker[:n])), 0)
