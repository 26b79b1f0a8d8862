"""What a request's tools mean: a constraint on the answer, and the parser that reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from perfxlm_core.serve.http_errors import bad_request
from perfxlm_core.serve.protocol.chat import NamedToolChoice

if TYPE_CHECKING:
    from collections.abc import Callable

    from perfxlm_core.serve.protocol.chat import ChatRequest
    from perfxlm_core.serve.settings import ServerSettings
    from perfxlm_core.serve.tools import ToolParser


@dataclass(frozen=True)
class ToolUse:
    """How calls come about.

    Attributes:
        new_parser: Makes the parser of one answer; None if there can be no calls.
        schema: Of the whole answer, where a call is demanded.
        shown: Whether the model is told of the tools.
    """

    new_parser: Callable[[], ToolParser] | None = None
    schema: dict[str, Any] | None = None
    shown: bool = True


def tool_use(body: ChatRequest, settings: ServerSettings) -> ToolUse:
    """How this request's `tools` and `tool_choice` are served.

    Raises:
        ApiError: the server is not set up for it.
        RequestError: `tool_choice` and `tools` do not fit together.
    """
    choice = body.tool_choice
    if choice is None:
        choice = "auto" if body.tools and settings.enable_auto_tool_choice else "none"
    if choice == "none":
        return ToolUse()
    if not body.tools:
        raise bad_request("tool_choice needs tools", "tool_choice")
    if choice == "auto":
        return ToolUse(_automatic(body, settings))
    return _forced(body, choice)


def _automatic(body: ChatRequest, settings: ServerSettings) -> Callable[[], ToolParser]:
    from perfxlm_core.serve.tools import ReadsTools, tool_parsers

    if not settings.enable_auto_tool_choice or settings.tool_call_parser is None:
        raise bad_request(
            '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be '
            f"set (parsers: {', '.join(tool_parsers.names())})",
            "tool_choice",
        )
    make, tools = tool_parsers.find(settings.tool_call_parser), tool_descriptions(body) or []

    def informed() -> ToolParser:
        parser = make()
        if isinstance(parser, ReadsTools):
            parser.take_tools(tools)
        return parser

    return informed


def _forced(body: ChatRequest, choice: str | NamedToolChoice) -> ToolUse:
    from perfxlm_core.serve.tools import forced

    tools = tool_descriptions(body) or []
    wanted = choice.model_dump() if isinstance(choice, NamedToolChoice) else choice
    parallel = body.parallel_tool_calls is not False
    first = forced(tools, wanted, parallel)
    if first is None:
        return ToolUse()

    def again() -> ToolParser:
        made = forced(tools, wanted, parallel)
        assert made is not None
        return made.parser

    return ToolUse(again, first.schema)


def tool_descriptions(body: ChatRequest) -> list[dict[str, Any]] | None:
    """The tools, as chat templates read them."""
    if not body.tools:
        return None
    return [tool.model_dump(exclude_none=True) for tool in body.tools]
