"""Calls that are JSON objects with a name and arguments, behind markers."""

from __future__ import annotations

import json
import re

from perfxlm_core.serve.tools import json_grammar
from perfxlm_core.serve.tools.characters import CharacterParser, Malformed, Run, Steps
from perfxlm_core.serve.tools.delta import CallId, call_id

ARGUMENTS = ("arguments", "parameters")
"""Either name is taken, whatever the model was taught."""


class JsonCalls(CharacterParser):
    """Text with calls in it: `{"name": ..., "arguments": {...}}`, alone or in an array.

    White space around calls is dropped; all other text outside them is content. What breaks a call
    that has been announced is content from the breaking character on.

    Attributes:
        openings: Markers, one of which stands before a call or an array of calls.
        closing: Marker behind it; may be missing. Empty if the format has none.
        separator: Between calls behind the same marker, if the format has that.
        bare: A `{` at the start of the text is a call as well.
    """

    openings: tuple[str, ...] = ()
    closing = ""
    separator = ""
    bare = False

    def __init__(self, new_id: CallId = call_id) -> None:
        super().__init__(new_id)
        self._blank: list[str] = []
        firsts = re.escape("".join(marker[0] for marker in self.openings))
        words = re.compile(rf"(?:\s*[^\s{firsts}])+")
        self._words = Run(words, self._plain_run)

    def grammar(self) -> Steps:
        """Content and calls, to the end."""
        self.hold()
        yield from self.space()
        if self.bare and self.c == "{":
            yield from self._attempt()
        else:
            self._blank = [self.withdraw()]
        while self.c:
            yield from self._text()
        self.content(self._take_blank())

    def _text(self) -> Steps:
        """Content up to a marker, and the calls behind it."""
        seen = ""
        while self.c:
            seen += self.c
            if seen in self.openings:
                self.hold(self._take_blank() + seen[:-1])
                yield
                yield from self._attempt()
                return
            while not self._may_open(seen):
                self._plain(seen[0])
                seen = seen[1:]
            self.skip = None if seen else self._words
            yield
            self.skip = None
        for c in seen:
            self._plain(c)

    def _may_open(self, seen: str) -> bool:
        return any(marker.startswith(seen) for marker in self.openings) or not seen

    def _plain(self, c: str) -> None:
        """A character outside calls; white space waits for what comes behind it."""
        if c.isspace():
            self._blank.append(c)
        else:
            self.content(self._take_blank() + c)

    def _plain_run(self, run: str) -> None:
        self.content(self._take_blank() + run)

    def _take_blank(self) -> str:
        blank = "".join(self._blank)
        self._blank = []
        return blank

    def _attempt(self) -> Steps:
        """Calls, or content if that is what they turn out to be."""
        try:
            yield from self.calls()
        except Malformed:
            self.release()
        else:
            self.withdraw()

    def calls(self) -> Steps:
        """What follows a marker."""
        yield from self.batch()
        while self.separator and self.c == self.separator:
            yield
            yield from self.batch()
        if self.closing and self.c == self.closing[0]:
            yield from self.expect(self.closing)
            yield from self.space()

    def batch(self) -> Steps:
        """One call or an array of calls, and white space."""
        yield from self.space()
        if self.c == "[":
            yield from self.array()
        else:
            yield from self.call()
        yield from self.space()

    def array(self) -> Steps:
        """At least one call."""
        yield
        yield from self.space()
        yield from self.call()
        yield from self.space()
        while self.c == ",":
            yield
            yield from self.space()
            yield from self.call()
            yield from self.space()
        yield from self.expect("]")

    def call(self) -> Steps:
        """An object with a name and arguments."""
        self.begin_call()
        yield from self.expect("{")
        yield from self.space()
        yield from self._member()
        while self.c == ",":
            yield
            yield from self.space()
            yield from self._member()
        if self.c != "}":
            raise Malformed
        self.end_call()
        yield
        self.hold()

    def _member(self) -> Steps:
        key = json.loads((yield from json_grammar.string(self)))
        yield from self.space()
        yield from self.expect(":")
        yield from self.space()
        if key == "name":
            self.name_call(json.loads((yield from json_grammar.string(self))))
        elif key in ARGUMENTS:
            yield from self._any_arguments()
        else:
            yield from json_grammar.value(self)
        yield from self.space()

    def _any_arguments(self) -> Steps:
        """An object; or its text in a string, as some models have it; or null."""
        if self.c == '"':
            self.set_arguments(_unquoted((yield from json_grammar.string(self))))
        elif self.c == "n":
            yield from self.expect("null")
            self.set_arguments("{}")
        else:
            yield from self.arguments()

    def arguments(self) -> Steps:
        """An object, recorded as it comes."""
        if self.c != "{":
            raise Malformed
        self.record()
        yield from json_grammar.value(self)
        self.recorded()

    def last_arguments(self) -> Steps:
        """Arguments that complete a call."""
        yield from self.arguments()
        self.end_call()
        self.hold()


def _unquoted(source: str) -> str:
    """The object whose text is in a JSON string."""
    text: str = json.loads(source)
    if not json_grammar.is_object(text) or any("\ud800" <= c <= "\udfff" for c in text):
        raise Malformed
    return text
