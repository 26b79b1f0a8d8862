"""`perfxlm.beam_search`, where vLLM's users look for it."""

from perfxlm_core.engine.beam_search import BeamSearchOutput, BeamSearchParams, BeamSearchSequence

__all__ = ["BeamSearchOutput", "BeamSearchParams", "BeamSearchSequence"]
