"""Tool parsers by name: ours, and those of other distributions."""

from __future__ import annotations

from collections.abc import Mapping

from perfxlm_core.serve.named import Named
from perfxlm_core.serve.tools.delta import ToolParser

GROUP = "perfxlm.tool_parsers"
"""Entry points of this group are callables without arguments that give a `ToolParser`."""
_HERE = "perfxlm_core.serve.tools"
PARSERS: Mapping[str, str] = {
    "hermes": f"{_HERE}.hermes:Hermes",
    "granite": f"{_HERE}.granite:Granite",
    "llama3_json": f"{_HERE}.llama3_json:Llama3Json",
    "llama4_json": f"{_HERE}.llama3_json:Llama3Json",
    "llama4_pythonic": f"{_HERE}.pythonic:Pythonic",
    "mistral": f"{_HERE}.mistral:Mistral",
    "qwen3_coder": f"{_HERE}.qwen3_coder:Qwen3Coder",
    "qwen3_xml": f"{_HERE}.qwen3_coder:Qwen3Coder",
    "pythonic": f"{_HERE}.pythonic:Pythonic",
}
"""vLLM's name -> `module:name`."""

tool_parsers: Named[ToolParser] = Named("tool parser", GROUP, PARSERS)
