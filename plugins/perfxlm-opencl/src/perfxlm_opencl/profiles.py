"""What a device reports, and what kernels may use of it.

A profile never hopes: a feature is on only if the device reports it, also where a profile is
forced. What depends on a compiled kernel (its largest work-group) is asked of the kernel.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace

import pyopencl as cl

from perfxlm_core.plugin import DeviceError

PROFILE = "PERFXLM_OPENCL_PROFILE"
"""Environment variable: the profile to use instead of the one that fits the device."""

NAMES = ("generic", "cpu", "intel", "adreno", "mali")


@dataclass(frozen=True)
class Facts:
    """What a device reports.

    Attributes:
        device: its name.
        platform: its platform's name.
        driver: its driver's version.
        is_cpu: whether it is a processor.
        c_version: newest OpenCL C that it compiles, as (major, minor).
        extensions: names.
        features: names of optional features of OpenCL C 3.0.
        unified: whether it shares the host's memory.
        compute_units: how many work-groups it runs at once, more or less.
        max_work_group: work-items of a group, at most; kernels may have a lower limit.
        local_memory: bytes of a group.
        memory: bytes in all.
        max_allocation: bytes of one buffer, at most.
        alignment: bytes at which buffers begin.
        image2d: width and height of an image, at most; zeros where there are no images.
        image_buffer: pixels of a one-dimensional image on a buffer, at most.
    """

    device: str
    platform: str
    driver: str
    is_cpu: bool
    c_version: tuple[int, int]
    extensions: frozenset[str]
    features: frozenset[str]
    unified: bool
    compute_units: int
    max_work_group: int
    local_memory: int
    memory: int
    max_allocation: int
    alignment: int
    image2d: tuple[int, int]
    image_buffer: int

    @staticmethod
    def of(device: cl.Device) -> Facts:
        """Ask a device."""
        images = bool(device.image_support)
        return Facts(
            device=device.name.strip(),
            platform=device.platform.name.strip(),
            driver=device.driver_version.strip(),
            is_cpu=bool(device.type & cl.device_type.CPU),
            c_version=_c_version(device),
            extensions=frozenset(device.extensions.split()),
            features=_c_features(device),
            unified=bool(device.host_unified_memory),
            compute_units=device.max_compute_units,
            max_work_group=device.max_work_group_size,
            local_memory=device.local_mem_size,
            memory=device.global_mem_size,
            max_allocation=device.max_mem_alloc_size,
            alignment=max(device.mem_base_addr_align // 8, 64),
            image2d=(device.image2d_max_width, device.image2d_max_height) if images else (0, 0),
            image_buffer=device.image_max_buffer_size if images else 0,
        )

    def has(self, *names: str) -> bool:
        """Whether it offers one of these extensions or features."""
        return any(n in self.extensions or n in self.features for n in names)

    @property
    def subgroup_sizes(self) -> tuple[int, ...]:
        """Sizes that a kernel can require; empty where there are no subgroups to rely on."""
        if not self.has("cl_khr_subgroups", "cl_intel_subgroups", "__opencl_c_subgroups"):
            return ()
        if self.has("cl_intel_required_subgroup_size"):
            return (8, 16, 32, 64) if self.is_cpu else (8, 16, 32)
        return (64, 128) if self.has("cl_qcom_reqd_sub_group_size") else ()


@dataclass(frozen=True)
class Profile:
    """What kernels may use, and the shapes of the generic ones.

    Attributes:
        name: one of `NAMES`.
        activation: dtype of activations that suits the device best.
        fp16: arithmetic on half.
        subgroup: size that kernels require of their subgroups; 0 for none.
        dot_product: products of four 8-bit integers in one instruction.
        images: weights may be read as images.
        row_items: work-items that share a row, in reductions over rows.
        items: work-items of a group where each works alone.
        max_items: work-items of a group, at most.
    """

    name: str
    activation: str = "float32"
    fp16: bool = False
    subgroup: int = 0
    dot_product: bool = False
    images: bool = False
    row_items: int = 64
    items: int = 64
    max_items: int = 256

    def summary(self) -> str:
        """Its name and the features that are on, in a line."""
        found = [
            ("fp16", self.fp16),
            (f"subgroups of {self.subgroup}", self.subgroup),
            ("integer dot product", self.dot_product),
            ("images", self.images),
        ]
        on = [name for name, there in found if there]
        return f"{self.name} ({', '.join(on)})" if on else self.name


_WANTED = {
    "generic": Profile("generic"),
    "cpu": Profile("cpu", row_items=1, items=16),
    "intel": Profile("intel", "float16", fp16=True, subgroup=16, dot_product=True),
    "adreno": Profile("adreno", "float16", fp16=True, subgroup=64, dot_product=True, images=True),
    "mali": Profile("mali", "float16", fp16=True, dot_product=True),
}
"""What each profile would like; `choose` leaves what the device has."""


def choose(facts: Facts, forced: str | None = None) -> Profile:
    """The profile of a device.

    Args:
        facts: what it reports.
        forced: a profile's name; by default what `PERFXLM_OPENCL_PROFILE` says, if anything.

    Raises:
        DeviceError: no profile is called so.
    """
    name = (os.environ.get(PROFILE, "") if forced is None else forced).strip().lower()
    if name and name not in _WANTED:
        raise DeviceError(f"{PROFILE}={name!r}: there are the profiles {', '.join(NAMES)}")
    wanted = _WANTED[name or _fitting(facts)]
    sizes = facts.subgroup_sizes
    return replace(
        wanted,
        fp16=wanted.fp16 and facts.has("cl_khr_fp16"),
        subgroup=wanted.subgroup if wanted.subgroup in sizes else 0,
        dot_product=wanted.dot_product and facts.has("cl_khr_integer_dot_product"),
        images=wanted.images and facts.image_buffer > 0,
        activation=wanted.activation if facts.has("cl_khr_fp16") else "float32",
        max_items=min(wanted.max_items, facts.max_work_group),
    )


def _fitting(facts: Facts) -> str:
    if facts.is_cpu:
        return "cpu"
    label = f"{facts.platform} {facts.device}".lower()
    vendors = {"qualcomm": "adreno", "adreno": "adreno", "mali": "mali", "intel": "intel"}
    return next((name for word, name in vendors.items() if word in label), "generic")


def _c_version(device: cl.Device) -> tuple[int, int]:
    found = re.search(r"OpenCL C (\d+)\.(\d+)", device.opencl_c_version)
    return (int(found[1]), int(found[2])) if found else (1, 1)


def _c_features(device: cl.Device) -> frozenset[str]:
    try:
        return frozenset(f.name for f in device.opencl_c_features)
    except (cl.Error, AttributeError):  # devices older than OpenCL 3.0
        return frozenset()
