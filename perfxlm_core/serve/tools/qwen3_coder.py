"""Qwen3-Coder's calls, a parameter after the other between tags, without quotes.

`<tool_call><function=NAME><parameter=NAME>value</parameter></function></tool_call>`, white space
anywhere between tags, and one line break at either end of a value that does not belong to it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

from perfxlm_core.serve.tools.characters import Malformed, Run, Steps
from perfxlm_core.serve.tools.marked import MarkedCalls
from perfxlm_core.serve.tools.parameter_types import allowed_types, json_text

_FUNCTION, _PARAMETER = "<function=", "<parameter="
_END, _END_PARAMETER, _END_CALL = "</function>", "</parameter>", "</tool_call>"
_ENDS = tuple(f"{line}{tag}" for tag in (_END_PARAMETER, _PARAMETER, _END) for line in ("", "\n"))
"""What ends a value: models leave out a closing tag at times."""
_PLAIN = re.compile(r"[^<\n]+")
_STRING = frozenset({"string"})


class Qwen3Coder(MarkedCalls):
    """Values have the types of the request's tools; of unknown parameters, they are strings.

    Strings stream once their call is announced, other values come whole.
    """

    keeps_special_tokens = True
    openings = ("<tool_call>", _FUNCTION)
    _schemas: Mapping[str, Mapping[str, Any]] = {}

    def take_tools(self, tools: Sequence[Mapping[str, Any]]) -> None:
        """Learn the parameters' types.

        Args:
            tools: Of the request, in OpenAI's form.
        """
        functions = [tool["function"] for tool in tools]
        self._schemas = {f["name"]: f.get("parameters") or {} for f in functions}

    def _types(self, function: str, parameter: str) -> frozenset[str]:
        schema = self._schemas.get(function, {})
        properties = schema.get("properties")
        if not isinstance(properties, Mapping) or parameter not in properties:
            return _STRING
        return allowed_types(properties[parameter], schema)

    def calls(self) -> Steps:
        """A function, or several; the tag around them may be missing."""
        if self.opened == _FUNCTION:
            yield from self._function()
            return
        yield from self.space()
        tag = yield from self._tag(_FUNCTION)
        while tag == _FUNCTION:
            yield from self._function()
            yield from self.space()
            if not self.c:
                return
            tag = yield from self._tag(_FUNCTION, _END_CALL)
        yield from self.space()

    def _function(self) -> Steps:
        """What follows `<function=`, to the end of the function."""
        self.begin_call()
        name = yield from self._word()
        self.name_call(name)
        seen: set[str] = set()
        yield from self.space()
        tag = yield from self._tag(_PARAMETER, _END)
        while tag != _END:
            tag = yield from self._parameter(name, seen)
            if tag == _END_PARAMETER:
                yield from self.space()
                tag = yield from self._tag(_PARAMETER, _END)
        if seen:
            self.add_arguments("}")
        self.end_call()
        self.hold()

    def _parameter(self, function: str, seen: set[str]) -> Generator[None, None, str]:
        """What follows `<parameter=`; returns the tag that ended the value."""
        name = yield from self._word()
        if name in seen:
            raise Malformed
        self.add_arguments(f"{', ' if seen else '{'}{json.dumps(name, ensure_ascii=False)}: ")
        seen.add(name)
        types = self._types(function, name)
        if types == _STRING:
            self.add_arguments('"')
            tag = yield from self._value(lambda text: self.add_arguments(_escaped(text)))
            self.add_arguments('"')
            return tag
        pieces: list[str] = []
        tag = yield from self._value(pieces.append)
        self.add_arguments(json_text("".join(pieces), types))
        return tag

    def _value(self, take: Callable[[str], object]) -> Generator[None, None, str]:
        """Give a value away in pieces; returns the tag that ended it."""
        if self.c == "\n":
            yield
        held, plain = "", Run(_PLAIN, take)
        while self.c:
            held += self.c
            if held in _ENDS:
                yield
                return held.removeprefix("\n")
            while held and not any(end.startswith(held) for end in _ENDS):
                take(held[0])
                held = held[1:]
            self.skip = None if held else plain
            yield
            self.skip = None
        take(held)
        raise Malformed

    def _word(self) -> Generator[None, None, str]:
        """What stands before `>`."""
        name = ""
        while self.c != ">":
            if not self.c or self.c in "<\n" or len(name) > 128:
                raise Malformed
            name += self.c
            yield
        yield
        if not name:
            raise Malformed
        return name

    def _tag(self, *tags: str) -> Generator[None, None, str]:
        """One of these tags."""
        seen = ""
        while seen not in tags:
            seen += self.c
            if not self.c or not any(tag.startswith(seen) for tag in tags):
                raise Malformed
            yield
        return seen


def _escaped(text: str) -> str:
    """A part of a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]
