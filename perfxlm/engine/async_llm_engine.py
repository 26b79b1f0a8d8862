"""`perfxlm.engine.async_llm_engine`, where vLLM's users look for it; needs the extra `serve`."""

from perfxlm_core.serve.client import AsyncLLM as AsyncLLMEngine

__all__ = ["AsyncLLMEngine"]
