"""Modules of vLLM under `perfxlm.v1`."""
