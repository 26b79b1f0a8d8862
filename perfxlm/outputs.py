"""`perfxlm.outputs`, where vLLM's users look for it."""

from perfxlm_core.engine.outputs import CompletionOutput, RequestOutput, RequestStateStats

__all__ = ["CompletionOutput", "RequestOutput", "RequestStateStats"]
