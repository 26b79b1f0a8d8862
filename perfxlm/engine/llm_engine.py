"""`perfxlm.engine.llm_engine`, where vLLM's users look for it."""

from perfxlm_core.engine.llm_engine import LLMEngine

__all__ = ["LLMEngine"]
