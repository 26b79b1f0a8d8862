"""Calls that are JSON objects with a name and arguments, behind markers."""

from __future__ import annotations

import json

from perfxlm_core.serve.tools import json_grammar
from perfxlm_core.serve.tools.characters import Malformed, Steps
from perfxlm_core.serve.tools.marked import MarkedCalls

ARGUMENTS = ("arguments", "parameters")
"""Either name is taken, whatever the model was taught."""


class JsonCalls(MarkedCalls):
    """`{"name": ..., "arguments": {...}}` behind a marker, alone or in an array.

    Attributes:
        closing: Marker behind them; may be missing. Empty if the format has none.
        separator: Between calls behind the same marker, if the format has that.
    """

    closing = ""
    separator = ""

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
