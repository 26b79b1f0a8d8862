"""`{"name": ..., "parameters": {...}}` as the whole answer: Llama 3.1 to 3.3."""

from __future__ import annotations

from perfxlm_core.serve.tools.json_calls import JsonCalls


class Llama3Json(JsonCalls):
    """Calls are separated by `;` and may stand behind `<|python_tag|>`."""

    openings = ("<|python_tag|>",)
    separator = ";"
    bare = "{"
