"""Devices, kernels, and the plugins that bring them."""
