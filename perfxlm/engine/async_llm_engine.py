"""`perfxlm.engine.async_llm_engine`, where vLLM's users look for it; needs the extra `serve`."""

from perfxlm.v1.engine.async_llm import AsyncLLM as AsyncLLMEngine

__all__ = ["AsyncLLMEngine"]
