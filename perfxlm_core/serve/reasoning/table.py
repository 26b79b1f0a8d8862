"""Reasoning parsers by name: ours, and those of other distributions."""

from __future__ import annotations

from collections.abc import Mapping

from perfxlm_core.serve.named import Named
from perfxlm_core.serve.reasoning.block import ReasoningParser

GROUP = "perfxlm.reasoning_parsers"
"""Entry points of this group are callables without arguments that give a `ReasoningParser`."""
_BLOCKS = "perfxlm_core.serve.reasoning.blocks"
PARSERS: Mapping[str, str] = {
    "deepseek_r1": f"{_BLOCKS}:DeepSeekR1",
    "glm45": f"{_BLOCKS}:Qwen3",
    "glm47": f"{_BLOCKS}:Qwen3",
    "granite": f"{_BLOCKS}:Granite",
    "mimo": f"{_BLOCKS}:Qwen3",
    "mistral": f"{_BLOCKS}:Mistral",
    "qwen3": f"{_BLOCKS}:Qwen3",
    "seed_oss": f"{_BLOCKS}:SeedOss",
}
"""vLLM's name -> `module:name`."""

reasoning_parsers: Named[ReasoningParser] = Named("reasoning parser", GROUP, PARSERS)
