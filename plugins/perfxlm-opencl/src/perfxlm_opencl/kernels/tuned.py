"""The best shape of a kernel: as it was measured on this device, or as the table has it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, fields

from perfxlm_core.plugin import DeviceError, Launch, Site
from perfxlm_opencl.device import OpenClDevice
from perfxlm_opencl.kernels.parameters import Shape, candidates, valid
from perfxlm_opencl.launch import constant, device_of, dtype_of

MANY = 64
"""Tokens of a step of many, when measured."""
REPEATS = 5
GAIN = 0.97
"""What another shape has to reach, of the time of the best so far."""

Make = Callable[[Shape], Launch]


def tuned(site: Site, rows: int, most: int, shape: Shape, make: Make) -> Shape:
    """The shape to bind.

    Args:
        site: of a linear.
        rows: of the weight, or of a part of it.
        most: tokens that the shape is for, at most.
        shape: the table's.
        make: binds the kernel in a shape.
    """
    device, columns = device_of(site), constant(site, "weight", 1)
    name = (
        f"linear {dtype_of(site, 'weight')} {dtype_of(site, 'x')} {rows}x{columns}, "
        f"up to {min(most, MANY)} tokens"
    )
    found = _known(device, name)
    if found is not None:
        return found
    if device.tuned.lines is None:
        return shape
    best, before, after = _search(device, columns, min(most, MANY), shape, make)
    device.tuned.keep(
        name, asdict(best), f"{name}: {before * 1e6:.0f} us, {after * 1e6:.0f} us with {best}"
    )
    return best


def _known(device: OpenClDevice, name: str) -> Shape | None:
    kept = device.tuned.find(name)
    if kept is None or set(kept) != {f.name for f in fields(Shape)}:
        return None
    shape = Shape(**kept)
    return shape if valid(shape, device.profile, device.facts) else None


def _search(
    device: OpenClDevice, columns: int, tokens: int, shape: Shape, make: Make
) -> tuple[Shape, float, float]:
    """The best shape, the table's time and its own: one number changed at a time."""
    every = list(candidates(device.profile, device.facts, columns, tokens))
    times = {shape: _seconds(device, tokens, make, shape)}
    best, seen = shape, None
    while best != seen:
        seen = best
        for one in (c for c in every if _differ(c, seen) == 1 and c not in times):
            times[one] = _seconds(device, tokens, make, one)
            if times[one] < GAIN * times[best]:
                best = one
    return best, times[shape], times[best]


def _differ(one: Shape, other: Shape) -> int:
    theirs = asdict(other)
    return sum(theirs[name] != value for name, value in asdict(one).items())


def _seconds(device: OpenClDevice, tokens: int, make: Make, shape: Shape) -> float:
    """Of one launch, the best of some; infinite where the driver refuses the shape."""
    sizes = {"tokens": tokens, "seqs": tokens, "rows": tokens}
    best = float("inf")
    try:
        launch = make(shape)
        for index in range(REPEATS + 1):
            start = time.perf_counter()
            launch(sizes)
            device.synchronize()
            if index:
                best = min(best, time.perf_counter() - start)
    except DeviceError:
        return float("inf")
    return best
