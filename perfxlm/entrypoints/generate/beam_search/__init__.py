"""Modules of vLLM under `perfxlm.entrypoints.generate.beam_search`."""
