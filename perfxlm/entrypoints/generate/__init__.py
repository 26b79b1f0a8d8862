"""Modules of vLLM under `perfxlm.entrypoints.generate`."""
