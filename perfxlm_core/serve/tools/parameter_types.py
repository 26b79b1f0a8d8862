"""What a parameter's text means, by the JSON schema that the request gave for it."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from typing import Any, NoReturn

TYPES: Mapping[type, str] = {
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    list: "array",
    dict: "object",
    type(None): "null",
}
_ALL = frozenset(TYPES.values())
_WORDS = {"true": True, "false": False, "null": None, "none": None}
_DEPTH = 8
"""Schemas inside each other that are looked at."""
_READ_ERRORS = (ValueError, SyntaxError, TypeError, RecursionError, MemoryError)


def allowed_types(schema: Any, root: Any, depth: int = 0) -> frozenset[str]:  # noqa: ANN401 - JSON
    """JSON's types that a value may have; all of them if the schema does not say.

    Args:
        root: Where references point to.
    """
    if not isinstance(schema, Mapping) or depth > _DEPTH:
        return _ALL
    if isinstance(schema.get("$ref"), str):
        return allowed_types(_referred(schema["$ref"], root), root, depth + 1)
    for key in ("anyOf", "oneOf"):
        if isinstance(schema.get(key), list):
            found = (allowed_types(part, root, depth + 1) for part in schema[key])
            return frozenset().union(*found)
    return _stated(schema)


def _stated(schema: Mapping[str, Any]) -> frozenset[str]:
    given = schema.get("type")
    named = {given} if isinstance(given, str) else set(given if isinstance(given, list) else ())
    if not named and isinstance(schema.get("enum"), list):
        named = {TYPES.get(type(value), "") for value in schema["enum"]}
    return frozenset(named) & _ALL or _ALL


def _referred(reference: str, root: Any) -> Any:  # noqa: ANN401 - JSON
    """The part of a schema that `#/$defs/name` means; None if there is none."""
    for step in reference.removeprefix("#").split("/")[1:]:
        root = root.get(step) if isinstance(root, Mapping) else None
    return root


def json_text(text: str, allowed: frozenset[str]) -> str:
    """JSON of a parameter that a model wrote without quotes, of a type that is allowed.

    What cannot be read as one of those is a string.
    """
    value = _read(text.strip())
    found = TYPES.get(type(value), "")
    if found in allowed or (found == "integer" and "number" in allowed):
        try:
            written = json.dumps(value, ensure_ascii=False, allow_nan=False)
            written.encode()  # a lone surrogate cannot be sent
            return written
        except _READ_ERRORS:
            pass
    return json.dumps(text, ensure_ascii=False)


def _read(text: str) -> Any:  # noqa: ANN401 - what the model wrote
    """JSON, or the same in Python's words."""
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        return json.loads(text, parse_constant=_refuse)
    except _READ_ERRORS:
        pass
    try:
        return ast.literal_eval(text) if text[:1] in "[{(" else text
    except _READ_ERRORS:
        return text


def _refuse(word: str) -> NoReturn:
    raise ValueError(word)
