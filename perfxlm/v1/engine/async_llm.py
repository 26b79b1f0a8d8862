"""`perfxlm.v1.engine.async_llm`, where vLLM's users look for it; needs the extra `serve`."""

try:
    from perfxlm_core.serve.client import AsyncLLM
except ModuleNotFoundError as error:
    raise ImportError(f'AsyncLLM needs {error.name}: pip install "perfxlm[serve]"') from error

__all__ = ["AsyncLLM"]
