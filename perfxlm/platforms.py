"""`perfxlm.platforms`: what programs ask of the machine they run on."""

from __future__ import annotations

from perfxlm_core.registry.device import kind_of
from perfxlm_core.registry.plugins import load_plugins


class Platform:
    """The best device that a plugin found."""

    @property
    def device_type(self) -> str:
        """Such as "cpu" or "opencl"."""
        return kind_of(load_plugins().device())

    device_name = device_type

    def is_cpu(self) -> bool:
        """Whether it is the processor."""
        return self.device_type == "cpu"

    def is_cuda(self) -> bool:
        """Whether it is a CUDA device."""
        return self.device_type == "cuda"

    def is_rocm(self) -> bool:
        """Whether it is a ROCm device."""
        return self.device_type == "rocm"

    def is_xpu(self) -> bool:
        """Whether it is an Intel GPU by its own plugin."""
        return self.device_type == "xpu"

    def is_tpu(self) -> bool:
        """Whether it is a TPU."""
        return self.device_type == "tpu"

    def is_cuda_alike(self) -> bool:
        """Whether it is a CUDA or a ROCm device."""
        return self.device_type in ("cuda", "rocm")


current_platform = Platform()

__all__ = ["Platform", "current_platform"]
