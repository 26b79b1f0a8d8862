"""Tool calls: parsers of what models write, and schemas that make them write it."""

from perfxlm_core.serve.tools.delta import (
    Answer,
    Call,
    CallDelta,
    Delta,
    ReadsTools,
    ToolParser,
    parse,
)
from perfxlm_core.serve.tools.forced import Forced, forced
from perfxlm_core.serve.tools.table import tool_parsers

__all__ = [
    "Answer",
    "Call",
    "CallDelta",
    "Delta",
    "Forced",
    "ReadsTools",
    "ToolParser",
    "forced",
    "parse",
    "tool_parsers",
]
