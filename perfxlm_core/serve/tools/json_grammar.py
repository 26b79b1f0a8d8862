"""JSON (RFC 8259), strictly, a character at a time."""

from __future__ import annotations

import re
from collections.abc import Generator

from perfxlm_core.serve.tools.characters import END, Malformed, Position, Run, Steps

DEPTH = 64
"""Objects and arrays inside each other; deeper ones are malformed."""
_PLAIN = re.compile(r'[^"\\\x00-\x1f]+')
_LITERALS = {"t": "true", "f": "false", "n": "null"}
_HEX = frozenset("0123456789abcdefABCDEF")
_DIGITS = frozenset("0123456789")


def value(at: Position, depth: int = 0) -> Steps:
    """Any value, and nothing behind it."""
    if depth > DEPTH:
        raise Malformed
    if at.c == "{":
        yield from _object(at, depth)
    elif at.c == "[":
        yield from _array(at, depth)
    elif at.c == '"':
        yield from string(at)
    elif at.c in _LITERALS:
        yield from at.expect(_LITERALS[at.c])
    else:
        yield from _number(at)


def string(at: Position) -> Generator[None, None, str]:
    """A string; returns its source, quotes included."""
    source = ['"']
    plain = Run(_PLAIN, source.append)
    yield from at.expect('"')
    while at.c != '"':
        if at.c < " ":  # a control character, or the end
            raise Malformed
        source.append(at.c)
        if at.c == "\\":
            yield
            yield from _escape(at, source)
        else:
            at.skip = plain
            yield
            at.skip = None
    yield
    return "".join(source) + '"'


def _escape(at: Position, source: list[str]) -> Steps:
    """What follows a backslash."""
    source.append(at.c)
    if at.c == "u":
        yield
        for _ in range(4):
            if at.c not in _HEX:
                raise Malformed
            source.append(at.c)
            yield
    elif at.c and at.c in '"\\/bfnrt':
        yield
    else:
        raise Malformed


def _object(at: Position, depth: int) -> Steps:
    yield
    yield from at.space()
    if at.c != "}":
        yield from _member(at, depth)
        while at.c == ",":
            yield
            yield from at.space()
            yield from _member(at, depth)
    yield from at.expect("}")


def _member(at: Position, depth: int) -> Steps:
    yield from string(at)
    yield from at.space()
    yield from at.expect(":")
    yield from at.space()
    yield from value(at, depth + 1)
    yield from at.space()


def _array(at: Position, depth: int) -> Steps:
    yield
    yield from at.space()
    if at.c != "]":
        yield from _item(at, depth)
        while at.c == ",":
            yield
            yield from at.space()
            yield from _item(at, depth)
    yield from at.expect("]")


def _item(at: Position, depth: int) -> Steps:
    yield from value(at, depth + 1)
    yield from at.space()


def _number(at: Position) -> Steps:
    if at.c == "-":
        yield
    if at.c == "0":
        yield
    else:
        yield from _digits(at)
    if at.c == ".":
        yield
        yield from _digits(at)
    if at.c in ("e", "E"):
        yield
        if at.c in ("+", "-"):
            yield
        yield from _digits(at)


def _digits(at: Position) -> Steps:
    if at.c not in _DIGITS:
        raise Malformed
    while at.c in _DIGITS:
        yield


def is_object(text: str) -> bool:
    """Whether a text is an object, and nothing else."""
    at = Position()
    steps = value(at)
    try:
        for at.c in text:
            next(steps)
        at.c = END
        next(steps)
    except Malformed:
        return False
    except StopIteration:
        return at.c == END and text[:1] == "{"
    return False
