"""`perfxlm.sampling_params`, where vLLM's users look for it."""

from perfxlm_core.engine.beam_search import BeamSearchParams
from perfxlm_core.engine.params import RequestOutputKind, SamplingParams, SamplingType
from perfxlm_core.engine.structured_params import GuidedDecodingParams, StructuredOutputsParams

__all__ = [
    "BeamSearchParams",
    "GuidedDecodingParams",
    "RequestOutputKind",
    "SamplingParams",
    "SamplingType",
    "StructuredOutputsParams",
]
