"""What the plugin offers: operators, and the OpenCL kernels bound to them."""

from perfxlm_opencl.kernels import (
    attention,
    elementwise,
    fused,
    linear,
    normalization,
    rotary,
    sampling,
    tables,
)
from perfxlm_opencl.kernels.collection import kernels

__all__ = [
    "attention",
    "elementwise",
    "fused",
    "kernels",
    "linear",
    "normalization",
    "rotary",
    "sampling",
    "tables",
]
