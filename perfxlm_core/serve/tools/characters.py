"""Parsers as coroutines: a grammar reads one character after the other, whatever the pieces were.

A grammar is a generator. It looks at the character in `c`, and `yield` accepts it and waits for
the next one. What comes of a text therefore cannot depend on how it was cut into pieces, and no
character is looked at twice. Where a run of characters can only be more of the same, a grammar
says so in `skip`, and gets the run at once.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from dataclasses import dataclass

from perfxlm_core.serve.tools.delta import CallDelta, CallId, Delta, call_id

Steps = Generator[None, None, None]

END = ""
"""What `c` is when the text is over; equal to no character."""
HELD = 256
"""Arguments up to this length are seen whole before their call is announced, so that a malformed
call can still become content. Longer ones stream from there on."""
_ANYTHING = re.compile(r"(?s:.+)")
_NAME = re.compile(r"[\w.:/-]{1,128}")


class Malformed(Exception):
    """The text is not what the grammar wants; caught where the candidate began."""


@dataclass(frozen=True, slots=True)
class Run:
    """Characters that a grammar need not see one by one, and what takes them."""

    pattern: re.Pattern[str]
    take: Callable[[str], object]


class Position:
    """The character that a grammar is at."""

    c: str = END
    skip: Run | None = None

    def expect(self, word: str) -> Steps:
        """Accept exactly these characters."""
        for wanted in word:
            if self.c != wanted:
                raise Malformed
            yield

    def space(self) -> Steps:
        """Accept white space, if there is any."""
        while self.c and self.c in " \t\r\n":
            yield


class CharacterParser(Position, ABC):
    """Runs a grammar over the pieces of a text and collects what it finds."""

    keeps_special_tokens = False
    held = HELD

    def __init__(self, new_id: CallId = call_id) -> None:
        self._new_id = new_id
        self._content: list[str] = []
        self._calls: list[CallDelta] = []
        self._candidate: list[str] | None = None
        self._arguments: list[str] = []
        self._length = 0
        self._recording = False
        self._name: str | None = None
        self._has_arguments = False
        self._announced = False
        self._index = -1
        self._steps = self.grammar()

    @abstractmethod
    def grammar(self) -> Steps:
        """The whole text; ends at its end."""

    def feed(self, text: str) -> Delta:
        """The next piece of the answer."""
        at = 0
        while at < len(text):
            run = self.skip and self.skip.pattern.match(text, at)
            piece = self._accept_run(run.group()) if run else self._accept(text[at])
            at += len(piece)
            if self._candidate is not None:
                self._candidate.append(piece)
            if self._recording:
                self._record(piece)
        return self._flush()

    def finish(self) -> Delta:
        """The answer has ended; gives what was still held back."""
        self.c = END
        next(self._steps, None)
        return self._flush()

    def _accept(self, c: str) -> str:
        self.c = c
        next(self._steps)
        return c

    def _accept_run(self, run: str) -> str:
        if self.skip is not None:
            self.skip.take(run)
        return run

    def rest(self) -> Steps:
        """All that is left is content."""
        self.content(self.c)
        self.skip = Run(_ANYTHING, self.content)
        while self.c:
            yield

    def content(self, text: str) -> None:
        """Text that belongs to no call."""
        if text:
            self._content.append(text)

    def hold(self, text: str = "") -> None:
        """From the current character on, this may turn out to be a call."""
        self._candidate = [text]

    def withdraw(self) -> str:
        """Nothing is held any more; gives what was."""
        held = "".join(self._candidate or ())
        self._candidate = None
        return held

    def release(self) -> None:
        """What is held is no call, but content; what was announced stays."""
        self._hand_out()
        self._announced = self._recording = False
        self.skip = None
        self.content(self.withdraw())

    def begin_call(self) -> None:
        """A call may start here."""
        self._name, self._announced, self._has_arguments = None, False, False
        self._arguments, self._length = [], 0

    def name_call(self, name: object) -> None:
        """What the call's name is.

        Raises:
            Malformed: it cannot be one, or there was one before.
        """
        if self._name is not None or not isinstance(name, str) or not _NAME.fullmatch(name):
            raise Malformed
        self._name = name

    def record(self) -> None:
        """The characters from the current one on are the call's arguments.

        Raises:
            Malformed: it has some already.
        """
        if self._has_arguments:
            raise Malformed
        self._has_arguments = self._recording = True

    def recorded(self) -> None:
        """The current character is no argument any more."""
        self._recording = False

    def set_arguments(self, text: str) -> None:
        """Arguments that are not in the text as they are."""
        self.record()
        self._arguments, self._recording = [text], False

    def add_arguments(self, text: str) -> None:
        """More of the arguments, of which the text has another form."""
        self._has_arguments = True
        self._record(text)

    def end_call(self) -> None:
        """The call is complete.

        Raises:
            Malformed: it has no name.
        """
        if self._name is None:
            raise Malformed
        if not self._has_arguments:
            self.set_arguments("{}")
        if not self._announced:
            self._announce(self._name)
        self._hand_out()
        self._announced = False

    def _record(self, piece: str) -> None:
        self._arguments.append(piece)
        self._length += len(piece)
        if not self._announced and self._length > self.held and self._name is not None:
            self._announce(self._name)

    def _announce(self, name: str) -> None:
        self._announced = True
        self._candidate = None
        self._index += 1
        self._calls.append(CallDelta(self._index, self._new_id(), name))

    def _hand_out(self) -> None:
        """The arguments that came, if their call has been announced."""
        if self._announced and self._arguments:
            self._calls.append(CallDelta(self._index, arguments="".join(self._arguments)))
            self._arguments = []

    def _flush(self) -> Delta:
        self._hand_out()
        delta = Delta("".join(self._content), tuple(self._calls))
        self._content, self._calls = [], []
        return delta
