"""`perfxlm.logprobs`, where vLLM's users look for it."""

from perfxlm_core.engine.flat_logprobs import FlatLogprobs
from perfxlm_core.engine.outputs import Logprob

__all__ = ["FlatLogprobs", "Logprob"]
