"""`<tool_call>{"name": ..., "arguments": {...}}</tool_call>`: Hermes, Qwen, SmolLM2."""

from __future__ import annotations

from perfxlm_core.serve.tools.json_calls import JsonCalls


class Hermes(JsonCalls):
    """Several blocks in an answer are several calls; one block may hold an array of them."""

    keeps_special_tokens = True
    openings = ("<tool_call>",)
    closing = "</tool_call>"
