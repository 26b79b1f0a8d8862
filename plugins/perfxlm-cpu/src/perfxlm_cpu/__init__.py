"""Native kernels for the processor that perfxlm itself runs on."""

from __future__ import annotations

from collections.abc import Iterable

from perfxlm_core.plugin import Device, Registry, hookimpl

PERFXLM_API_VERSION = 1


@hookimpl
def perfxlm_probe_devices() -> Iterable[Device]:
    """One device: the processor, with the cores that this process may use."""
    from perfxlm_cpu.device import CpuDevice

    return [CpuDevice()]


@hookimpl
def perfxlm_register_kernels(registry: Registry) -> None:
    """All kernels; the same functions whatever the instruction set."""
    from perfxlm_cpu.kernels import kernels

    registry.extend(kernels)
