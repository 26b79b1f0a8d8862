"""What a device reaches when it only reads, or only computes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pyopencl as cl

from perfxlm_core.plugin import Buffer, DeviceError, MemoryPlanError
from perfxlm_opencl.memory import Region

if TYPE_CHECKING:
    from perfxlm_opencl.device import OpenClDevice

log = logging.getLogger(__name__)

MEMORY = 192 << 20
"""Bytes that are read in turn: more than most caches hold."""
SLICE = 32 << 20
"""Bytes of one timing: so few that some timings pass while nobody else has the memory."""
LEAST = 1 << 20
"""Bytes, of memory and of a timing, below which a number would say nothing."""
SIXTEEN = 16
"""Bytes that a work-item reads at once, as the kernels count rounds."""
CHAINS = 8
LONG = 2e-3
"""Seconds of a timing that is long enough."""
BUDGET = 0.06
"""Seconds for the timings of one limit, more or less."""
_MOST_ROUNDS = 1 << 16

Timing = Callable[[int], float]
"""Work of some size -> seconds."""


def measure_limits(device: OpenClDevice) -> dict[str, float]:
    """Bytes/s of reading, and operations/s of float32 and of products of 8-bit integers.

    The latter are exact in float32 too, which many devices multiply faster: the better one counts.
    What cannot be measured, because there is no memory left to read, say, is left out.
    """
    widths = (1, 16) if device.facts.is_cpu else (1, 4)
    float32 = max(_tried(_multiply_add, device, width) for width in widths)
    found = {
        "read": _tried(_read, device),
        "float32": float32,
        "int8": max(float32, _tried(_dot_product, device)),
    }
    return {name: value for name, value in found.items() if value}


def _tried(measure: Callable[..., float], *arguments: object) -> float:
    """What it measures; 0, and a warning, if the driver refuses."""
    try:
        return measure(*arguments)
    except DeviceError as error:
        log.warning("a limit is not known: %s", error)
        return 0.0


def _read(device: OpenClDevice) -> float:
    """Bytes/s; processors want stretches, graphics processors that neighbours read side by side."""
    memory = _taken(device)
    if memory is None:
        return 0.0
    stretches = device.facts.is_cpu
    name, rounds = ("read_stretches", 0) if stretches else ("read_side_by_side", 16)
    items = 16 * device.facts.compute_units
    kernel = cl.Kernel(device.programs.build("peaks.cl", {"WIDTH": 1, "DOT": 0}), name)
    results = _results(device, max(items, SLICE // SIXTEEN // 16))
    region: Region = memory.handle
    places = _places(memory.nbytes)

    def timing(nbytes: int) -> float:
        units = nbytes // SIXTEEN
        shape = (items, units // items // 8 * 8) if stretches else (units // rounds, rounds)
        first = (region.offset + next(places)) // SIXTEEN
        kernel.set_args(region.memory, np.uint64(first), results, np.uint32(shape[1]))
        seconds = _timed(device, kernel, shape[0], 1 if stretches else 64)
        return seconds * units / (shape[0] * shape[1])

    size = _long_enough(timing, LEAST, min(SLICE, memory.nbytes))
    return size / _best(timing, size)


def _taken(device: OpenClDevice) -> Buffer | None:
    """Memory to read: as much as is wanted and there is."""
    size = min(MEMORY, device.facts.max_allocation, device.facts.memory // 8)
    size = size // LEAST * LEAST
    while size >= LEAST:
        try:
            return device.allocate(size)
        except MemoryPlanError:
            size = size // 2 // LEAST * LEAST
    return None


def _places(nbytes: int) -> Iterator[int]:
    """Where timings begin to read, in turn: as far from one another as it goes."""
    while True:
        yield from range(0, max(nbytes - SLICE, 0) + 1, SLICE)


def _multiply_add(device: OpenClDevice, width: int) -> float:
    """Operations/s of float32, with vectors of so many."""
    program = device.programs.build("peaks.cl", {"WIDTH": width, "DOT": 0})
    factors = np.linspace(0.25, 0.75, 32, dtype=np.float32)
    return 2 * width * _chains(device, cl.Kernel(program, "multiply_add"), factors)


def _dot_product(device: OpenClDevice) -> float:
    """Operations/s of products of 8-bit integers; 0 where there is no instruction for them."""
    if not device.facts.has("cl_khr_integer_dot_product"):
        return 0.0
    program = device.programs.build("peaks.cl", {"WIDTH": 1, "DOT": 1}, std="CL3.0")
    kernel = cl.Kernel(program, "add_dot_product")
    return 8 * _chains(device, kernel, np.full(32, 0x01FF02FE, np.int32))


def _chains(device: OpenClDevice, kernel: Any, factors: np.ndarray) -> float:  # noqa: ANN401
    """Links of chains each second, of all work-items together."""
    items = 1024 * device.facts.compute_units
    flags = cl.mem_flags.READ_ONLY | cl.mem_flags.COPY_HOST_PTR
    with device.errors("measuring its limits"):
        given = cl.Buffer(device.context, flags, hostbuf=factors)
    results = _results(device, items)

    def timing(rounds: int) -> float:
        kernel.set_args(given, results, np.uint32(rounds))
        return _timed(device, kernel, items, 64)

    rounds = _long_enough(timing, 16, _MOST_ROUNDS)
    return CHAINS * items * rounds / _best(timing, rounds)


def _long_enough(timing: Timing, size: int, most: int) -> int:
    """A size that takes long enough to be timed, from `size` to `most`."""
    timing(size)  # the driver does what it does at a kernel's first launch
    while size < most and timing(size) < LONG:
        size = min(4 * size, most)
    return size


def _best(timing: Timing, size: int) -> float:
    """Seconds of the fastest of several."""
    end = perf_counter() + BUDGET
    best = timing(size)
    while perf_counter() < end:
        best = min(best, timing(size))
    return best


def _timed(device: OpenClDevice, kernel: Any, items: int, group: int) -> float:  # noqa: ANN401
    """Seconds of a launch, by the device's clock."""
    queue, group = device.timing_queue, min(group, device.profile.max_items)
    with device.errors(f"measuring its limits ({kernel.function_name})"):
        device.synchronize()
        event = cl.enqueue_nd_range_kernel(queue, kernel, (items,), (group,))
        queue.finish()
        return max(event.profile.end - event.profile.start, 1) / 1e9


def _results(device: OpenClDevice, items: int) -> cl.Buffer:
    """Four bytes for each work-item."""
    with device.errors("measuring its limits"):
        return cl.Buffer(device.context, cl.mem_flags.READ_WRITE, 4 * items)
