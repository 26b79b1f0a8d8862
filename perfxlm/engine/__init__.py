"""Modules of vLLM under `perfxlm.engine`."""
