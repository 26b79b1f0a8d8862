"""What the plugin offers: operators, and the native kernels bound to them."""

from perfxlm_cpu.kernels import attention, elementwise, linear, normalization, rotary
from perfxlm_cpu.kernels.collection import kernels

__all__ = ["attention", "elementwise", "kernels", "linear", "normalization", "rotary"]
