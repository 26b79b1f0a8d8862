"""`perfxlm.v1.engine.async_llm`, where vLLM's users look for it; needs the extra `serve`."""

from perfxlm_core.serve.client import AsyncLLM

__all__ = ["AsyncLLM"]
