"""`<|tool_call|>[{"name": ..., "arguments": {...}}, ...]`: Granite 3."""

from __future__ import annotations

from perfxlm_core.serve.tools.json_calls import JsonCalls


class Granite(JsonCalls):
    """Version 3.0 has a token of its own for the marker, later ones spell it."""

    keeps_special_tokens = True
    openings = ("<|tool_call|>", "<tool_call>")
    closing = "</tool_call>"
