"""`perfxlm.logprobs`, where vLLM's users look for it."""

from perfxlm_core.engine.outputs import Logprob

__all__ = ["Logprob"]
