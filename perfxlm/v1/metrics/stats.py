"""`perfxlm.v1.metrics.stats`, where vLLM's users look for it."""

from perfxlm_core.engine.outputs import RequestStateStats

__all__ = ["RequestStateStats"]
