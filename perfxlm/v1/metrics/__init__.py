"""Modules of vLLM under `perfxlm.v1.metrics`."""
