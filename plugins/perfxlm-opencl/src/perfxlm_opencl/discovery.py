"""Platforms and devices of this machine, in the order in which users count them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pyopencl as cl

from perfxlm_core.plugin import DeviceError

PLATFORM = "PERFXLM_OPENCL_PLATFORM"
"""Environment variable: part of the name of the platforms to use, in any case."""

NODES = ("dri/renderD*", "kgsl-3d0", "mali0")
"""Below /dev: files through which drivers reach Intel's, Qualcomm's and Arm's processors."""

SIMULATORS = ("oclgrind",)
"""Platforms for finding bugs: used only when the environment names them."""


def find_devices(wanted: str | None = None) -> list[cl.Device]:
    """Devices of all platforms: GPUs first, then accelerators, then processors.

    Args:
        wanted: part of a platform's name; by default what `PERFXLM_OPENCL_PLATFORM` says, and
            without that all platforms but simulators.

    Raises:
        DeviceError: no platform is called so.
    """
    name = (os.environ.get(PLATFORM, "") if wanted is None else wanted).strip().lower()
    platforms = _platforms()
    chosen = [
        p for p in platforms if (name in p.name.lower() if name else not _is_simulator(p.name))
    ]
    if name and not chosen:
        have = ", ".join(repr(p.name) for p in platforms) or "none"
        raise DeviceError(
            f"{PLATFORM}={name!r}: no OpenCL platform is called so; this machine has {have}"
        )
    return sorted((d for p in chosen for d in _devices(p)), key=_rank)


def why_none(folder: Path = Path("/dev")) -> str:
    """What to do where no device was found.

    Args:
        folder: where the system shows its devices.
    """
    names = ", ".join(repr(p.name) for p in _platforms() if not _is_simulator(p.name))
    nodes = [node for pattern in NODES for node in sorted(folder.glob(pattern))]
    closed = [node for node in nodes if not os.access(node, os.R_OK | os.W_OK)]
    what = f"the OpenCL platforms {names} have no device" if names else "no OpenCL driver was found"
    if closed:
        return (
            f"{what}, and this user may not open {_list(closed)}: add the user to the group that "
            f"owns it ({_groups(closed)}) and log in again"
        )
    return f"{what}: install the driver of your device, docs/opencl.md says which"


def _list(nodes: Iterable[Path]) -> str:
    return ", ".join(map(str, nodes))


def _groups(nodes: Iterable[Path]) -> str:
    def name(node: Path) -> str:
        try:
            return node.group()
        except (KeyError, NotImplementedError):
            return str(node.stat().st_gid)

    return ", ".join(sorted({name(node) for node in nodes}))


def _platforms() -> list[cl.Platform]:
    """All platforms; none where no driver is installed."""
    try:
        return list(cl.get_platforms())
    except cl.Error:
        return []


def _devices(platform: cl.Platform) -> list[cl.Device]:
    try:
        return [d for d in platform.get_devices() if d.available and d.compiler_available]
    except cl.Error:
        return []


def _is_simulator(name: str) -> bool:
    return any(s in name.lower() for s in SIMULATORS)


def _rank(device: cl.Device) -> int:
    order = (cl.device_type.GPU, cl.device_type.ACCELERATOR, cl.device_type.CPU)
    return next((i for i, kind in enumerate(order) if device.type & kind), len(order))
