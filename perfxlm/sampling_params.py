"""`perfxlm.sampling_params`, where vLLM's users look for it."""

from perfxlm_core.engine.params import RequestOutputKind, SamplingParams, SamplingType

__all__ = ["RequestOutputKind", "SamplingParams", "SamplingType"]
