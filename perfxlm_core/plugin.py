"""All that a hardware plugin imports from the core."""

from perfxlm_core.errors import DeviceError, MemoryPlanError, PluginError
from perfxlm_core.ops.formats import FORMATS, QuantFormat, Tensor
from perfxlm_core.ops.types import Dim, concrete, itemsize, numpy_dtype
from perfxlm_core.registry.device import (
    Buffer,
    Device,
    DeviceInfo,
    HostMemory,
    Launch,
    Operand,
    ProfiledProgram,
    Program,
    Span,
    loop,
    operand_view,
    timed,
)
from perfxlm_core.registry.hooks import API_VERSION, hookimpl
from perfxlm_core.registry.kernels import Attributes, Dims, Kernel, KernelSet, Registry, Site

__all__ = [
    "API_VERSION",
    "FORMATS",
    "Attributes",
    "Buffer",
    "Device",
    "DeviceError",
    "DeviceInfo",
    "Dim",
    "Dims",
    "HostMemory",
    "Kernel",
    "KernelSet",
    "Launch",
    "MemoryPlanError",
    "Operand",
    "PluginError",
    "ProfiledProgram",
    "Program",
    "QuantFormat",
    "Registry",
    "Site",
    "Span",
    "Tensor",
    "concrete",
    "hookimpl",
    "itemsize",
    "loop",
    "numpy_dtype",
    "operand_view",
    "timed",
]
