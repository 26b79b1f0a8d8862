"""`perfxlm.entrypoints.generate.beam_search.utils`, where vLLM's users look for it."""

from perfxlm_core.engine.beam_search import BeamSearchOutput, BeamSearchSequence

__all__ = ["BeamSearchOutput", "BeamSearchSequence"]
