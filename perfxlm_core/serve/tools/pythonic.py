"""`[name(key=value, ...), ...]` as the whole answer: Llama 3.2, Llama 4, ToolACE."""

from __future__ import annotations

import ast
import json
import warnings
from collections.abc import Generator

from perfxlm_core.serve.tools.characters import CharacterParser, Malformed, Steps

_OPEN, _CLOSE = frozenset("([{"), frozenset(")]}")
_ARGUMENT_ERRORS = (SyntaxError, ValueError, TypeError, RecursionError, MemoryError)


class Pythonic(CharacterParser):
    """A list of calls, each of which is announced when it is complete.

    Arguments are literals, by keyword. Llama 4's `<|python_start|>` and `<|python_end|>` around the
    list are dropped.
    """

    start, end = "<|python_start|>", "<|python_end|>"

    def grammar(self) -> Steps:
        """A list of calls, or content."""
        self.hold()
        try:
            yield from self.space()
            if self.c == "<":
                yield from self.expect(self.start)
                yield from self.space()
            yield from self.calls()
            if self.c == "<":
                yield from self.expect(self.end)
            yield from self.space()
            self.withdraw()
        except Malformed:
            self.release()
        yield from self.rest()

    def calls(self) -> Steps:
        """The list, and the white space behind it."""
        yield from self.expect("[")
        yield from self.call()
        while self.c == ",":
            yield
            yield from self.call()
        yield from self.expect("]")
        yield from self.space()

    def call(self) -> Steps:
        """One call, between white space."""
        yield from self.space()
        self.begin_call()
        name = yield from self._identifier()
        self.name_call(name)
        source = yield from self._parentheses()
        self.set_arguments(_arguments(source))
        self.end_call()
        self.hold()
        yield from self.space()

    def _identifier(self) -> Generator[None, None, str]:
        name: list[str] = []
        while self.c.isalnum() or (self.c and self.c in "_.-"):
            name.append(self.c)
            yield
        return "".join(name)

    def _parentheses(self) -> Generator[None, None, str]:
        """From `(` to the `)` that closes it."""
        if self.c != "(":
            raise Malformed
        source: list[str] = []
        depth = 0
        while True:
            if self.c in ("'", '"'):
                yield from self._string(source)
                continue
            if not self.c:
                raise Malformed
            depth += (self.c in _OPEN) - (self.c in _CLOSE)
            source.append(self.c)
            yield
            if depth == 0:
                return "".join(source)

    def _string(self, source: list[str]) -> Steps:
        quote = self.c
        source.append(self.c)
        yield
        while self.c != quote:
            if self.c == "\\":
                source.append(self.c)
                yield
            if not self.c:
                raise Malformed
            source.append(self.c)
            yield
        source.append(self.c)
        yield


def _arguments(source: str) -> str:
    """The JSON text of `(key=value, ...)`.

    Raises:
        Malformed: it is not that, or a value is nothing that JSON has.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # of escapes that Python does not know
            call = ast.parse(f"f{source}", mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            raise Malformed
        text = json.dumps(_values(call.keywords), ensure_ascii=False, allow_nan=False)
        text.encode()  # a lone surrogate cannot be sent
    except _ARGUMENT_ERRORS as error:
        raise Malformed from error
    return text


def _values(keywords: list[ast.keyword]) -> dict[str, object]:
    if any(k.arg is None for k in keywords):
        raise Malformed
    return {str(k.arg): ast.literal_eval(_CONSTANTS.visit(k.value)) for k in keywords}


class _JsonNames(ast.NodeTransformer):
    """Models mix JSON's constants into Python."""

    meaning = {"true": True, "false": False, "null": None}  # noqa: RUF012 - never written

    def visit_Name(self, node: ast.Name) -> ast.expr:
        """A constant for a name of JSON's; any other name stays, and is refused."""
        return ast.Constant(self.meaning[node.id]) if node.id in self.meaning else node


_CONSTANTS = _JsonNames()
