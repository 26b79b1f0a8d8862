"""How fast kernels are, beside what the device's memory and arithmetic allow.

Each workload is bound as a plan binds it, with weights in so many nodes of one program that no
cache holds them all, and launched with its batches in turns; the median counts.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from perfxlm_core.conformance.case import Variant
from perfxlm_core.conformance.timed_node import TimedNode
from perfxlm_core.conformance.workloads import operations, traffic, workloads
from perfxlm_core.registry.device import Device
from perfxlm_core.registry.kernels import Kernel

STREAM = 256 * 2**20
"""Bytes of weights that a program goes through, and that the read bandwidth is measured with."""
UNCACHED = 64 * 10**6
"""Launches that go through fewer bytes may be served by caches: main memory is not their limit."""
SECONDS = 0.1
"""Time given to each batch."""


@dataclass(frozen=True)
class Limits:
    """What a device can do at most, as measured on it.

    Attributes:
        read: bytes/s from memory.
        float32: floating-point operations/s.
        int8: the same of products of 8-bit integers.
        source: who measured.
    """

    read: float | None = None
    float32: float | None = None
    int8: float | None = None
    source: str = "not known"


@dataclass(frozen=True)
class Timing:
    """One kernel with one workload and one batch.

    Attributes:
        op: operator's name.
        kernel: kernel's name.
        dtype: of activations.
        format: of weights or cache; "-" where there are none.
        shape: of the node.
        batch: of the launch.
        seconds: of a launch, the median.
        nbytes: that it must move.
        operations: floating-point operations; None where they never matter.
        footprint: bytes of memory that the launches go through in turn.
        limit: "memory" or "arithmetic", whichever is nearer; None if neither is known,
            or caches hold the operands and arithmetic does not matter.
        fraction: of that limit which is reached.
    """

    op: str
    kernel: str
    dtype: str
    format: str
    shape: str
    batch: str
    seconds: float
    nbytes: int
    operations: int | None
    footprint: int
    limit: str | None = None
    fraction: float | None = None


def measure_limits(device: Device) -> Limits:
    """The device's own measurements, or NumPy's if it computes in the host's memory."""
    own = getattr(device, "limits", None)
    if callable(own):
        found = own()
        return Limits(found.get("read"), found.get("float32"), found.get("int8"), "the device")
    if not device.host_visible:
        return Limits()
    return Limits(_read_bandwidth(), _multiplication(), None, "NumPy")


def _read_bandwidth() -> float:
    """Bytes/s with one thread for each processor that this process may use, the best of five."""
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = np.ones(STREAM // 8, np.uint64)
    parts = np.array_split(memory, 8 * (threads or 1))
    with ThreadPoolExecutor(threads) as pool:
        times = []
        for _ in range(5):
            start = time.perf_counter()
            list(pool.map(np.bitwise_or.reduce, parts))
            times.append(time.perf_counter() - start)
    return STREAM / min(times)


def _multiplication() -> float:
    """FLOP/s of a product of float32 matrices, the best of five."""
    n = 1024
    a = np.ones((n, n), np.float32)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - start)
    return 2 * n**3 / min(times)


def measure(
    device: Device,
    kernel: Kernel,
    variant: Variant,
    limits: Limits,
    seconds: float = SECONDS,
    stream: int = STREAM,
) -> Iterator[Timing]:
    """Time a kernel with all workloads of its operator that it takes.

    Args:
        device: where.
        kernel: which.
        variant: types of activations, weights and caches.
        limits: what the timings are compared with.
        seconds: given to each batch.
        stream: bytes of weights to go through.
    """
    for work in workloads(kernel.op, variant):
        node = TimedNode(device, kernel, variant, work, stream)
        if node.declined is not None:
            continue
        for batch, time_taken in node.times(seconds).items():
            moved = traffic(kernel.op, work, variant, batch)
            computed = operations(kernel.op, work, batch)
            peak = limits.float32 if work.attrs.get("exact", True) else limits.int8
            footprint = node.footprint(batch)
            read = limits.read if footprint >= UNCACHED else None
            limit, fraction = _nearest(time_taken, moved, computed, read, peak)
            yield Timing(
                kernel.op.name, kernel.name, variant.dtype, variant.label, work.label, batch.label,
                time_taken, moved, computed, footprint, limit, fraction,
            )  # fmt: skip


def _nearest(
    seconds: float, moved: int, computed: int | None, read: float | None, peak: float | None
) -> tuple[str | None, float | None]:
    """Which limit the time is nearest to, and the fraction of it that is reached."""
    least = {}
    if read:
        least["memory"] = moved / read
    if peak and computed:
        least["arithmetic"] = computed / peak
    if not least:
        return None, None
    limit = max(least, key=lambda name: least[name])
    return limit, least[limit] / seconds
