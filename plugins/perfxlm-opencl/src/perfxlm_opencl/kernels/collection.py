"""The set that all kernels of this plugin are collected into."""

from perfxlm_core.plugin import FORMATS, KernelSet

kernels = KernelSet(vendor="opencl", device="opencl")

ACTIVATIONS = ("float32", "float16")
"""Types in which activations are stored."""
CACHES = ("float32", "float16", "bfloat16")
"""Types in which the KV cache is stored."""
WEIGHTS = ("float32", "float16", "bfloat16", *FORMATS)
"""Formats of weights that the generic kernels read."""
