"""The hooks of a plugin. All optional but the first; a plugin lists only the arguments it wants."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from perfxlm_core.registry.device import Device
    from perfxlm_core.registry.kernels import Registry

hookspec = pluggy.HookspecMarker("perfxlm")
hookimpl = pluggy.HookimplMarker("perfxlm")

API_VERSION = 1
"""Version of this page, `Device`, `KernelSet` and the operators' signatures. A plugin states the
version it was written for as `PERFXLM_API_VERSION`; this one and the one before are accepted."""


@hookspec
def perfxlm_probe_devices() -> Iterable[Device]:  # type: ignore[empty-body]
    """Find this plugin's devices on this machine; an empty list when there are none.

    Called in every process that loads plugins. Import nothing heavy before it is certain that the
    hardware is there, and do not allocate on it.
    """


@hookspec
def perfxlm_register_kernels(registry: Registry) -> None:
    """Deliver kernels: `registry.extend(kernels)`. Called only if a device was found."""
