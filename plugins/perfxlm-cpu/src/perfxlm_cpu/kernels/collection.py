"""The set that all kernels of this plugin are collected into."""

from perfxlm_core.plugin import KernelSet

kernels = KernelSet(vendor="cpu", device="cpu")

ACTIVATIONS = ("float32",)
