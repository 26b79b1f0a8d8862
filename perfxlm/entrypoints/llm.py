"""`perfxlm.entrypoints.llm`, where vLLM's users look for it."""

from perfxlm_core.engine.llm import LLM

__all__ = ["LLM"]
