"""Calls that the request demands: a schema for the sampler, and the parser of what it gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from perfxlm_core.errors import RequestError
from perfxlm_core.serve.tools.characters import Malformed, Steps
from perfxlm_core.serve.tools.delta import CallDelta, CallId, Delta, ToolParser, call_id
from perfxlm_core.serve.tools.json_calls import JsonCalls

Schema = dict[str, Any]
_ITEM = "#/items/anyOf/{}/properties/parameters"
_NOTHING: Schema = {"type": "object", "properties": {}, "additionalProperties": False}


@dataclass(frozen=True)
class Forced:
    """What makes a model call.

    Attributes:
        schema: For structured outputs: the whole answer follows it.
        parser: Takes that answer apart.
    """

    schema: Schema
    parser: ToolParser


def forced(
    tools: Sequence[Mapping[str, Any]],
    tool_choice: str | Mapping[str, Any],
    parallel: bool = True,
    new_id: CallId = call_id,
) -> Forced | None:
    """How a request's `tool_choice` is enforced; None if it leaves the choice to the model.

    Args:
        tools: Of the request, in OpenAI's form.
        tool_choice: "none", "auto", "required", or the function to call.
        parallel: Whether "required" may give several calls.

    Raises:
        RequestError: there are no tools, or none of the name.
    """
    if tool_choice in ("none", "auto"):
        return None
    functions = [tool["function"] for tool in tools]
    if tool_choice == "required":
        if not functions:
            raise RequestError('tool_choice is "required" but the request has no tools')
        return Forced(_any_of(functions, parallel), RequiredCalls(new_id))
    name = _chosen(tool_choice)
    for function in functions:
        if function["name"] == name:
            return Forced(_parameters(function), NamedCall(name, new_id))
    known = ", ".join(function["name"] for function in functions) or "none"
    raise RequestError(f"tool_choice names {name!r}, which is not among the tools: {known}")


def _chosen(tool_choice: str | Mapping[str, Any]) -> str:
    try:
        return str(tool_choice["function"]["name"])  # type: ignore[index]  # a string is refused below
    except (KeyError, TypeError):
        raise RequestError(
            f'tool_choice is {tool_choice!r}; expected "none", "auto", "required" or '
            '{"type": "function", "function": {"name": ...}}'
        ) from None


def _any_of(functions: Sequence[Mapping[str, Any]], parallel: bool) -> Schema:
    """An array of calls of these functions."""
    items = [_call(function, place) for place, function in enumerate(functions)]
    schema: Schema = {"type": "array", "minItems": 1, "items": {"anyOf": items}}
    return schema if parallel else {**schema, "maxItems": 1}


def _call(function: Mapping[str, Any], place: int) -> Schema:
    return {
        "type": "object",
        "properties": {
            "name": {"type": "string", "enum": [function["name"]]},
            "parameters": moved(_parameters(function), _ITEM.format(place)),
        },
        "required": ["name", "parameters"],
        "additionalProperties": False,
    }


def _parameters(function: Mapping[str, Any]) -> Schema:
    return dict(function.get("parameters") or _NOTHING)


def moved(schema: Any, to: str) -> Any:  # noqa: ANN401 - any part of a schema
    """A schema whose references still point at its own parts when it stands at `to`."""
    if isinstance(schema, list):
        return [moved(part, to) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: to + part[1:]
        if key == "$ref" and isinstance(part, str) and part.startswith("#")
        else moved(part, to)
        for key, part in schema.items()
    }


class RequiredCalls(JsonCalls):
    """An array of calls, which the sampler has made sure of: nothing needs to be held back."""

    held = 0

    def grammar(self) -> Steps:
        """The array; what stands behind it is content."""
        self.hold()
        try:
            yield from self.batch()
            self.withdraw()
        except Malformed:
            self.release()
        yield from self.rest()


class NamedCall:
    """The arguments of a function that the request named: the whole answer."""

    keeps_special_tokens = False

    def __init__(self, name: str, new_id: CallId = call_id) -> None:
        self._head: CallDelta | None = CallDelta(0, new_id(), name)

    def feed(self, text: str) -> Delta:
        """The next piece of the arguments."""
        if not text:
            return Delta()
        head, self._head = self._head, None
        return Delta(calls=(*((head,) if head else ()), CallDelta(0, arguments=text)))

    def finish(self) -> Delta:
        """Nothing is held back."""
        return Delta()
