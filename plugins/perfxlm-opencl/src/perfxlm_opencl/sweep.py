"""A whole plan as one sweep of enqueues.

Each launch has a kernel object of its own, whose arguments are set once. A step with the sizes of
the one before does nothing but enqueue; other sizes set the arguments that depend on them first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyopencl as cl

from perfxlm_core.plugin import DeviceError, Dim, Launch, Program
from perfxlm_opencl.launch import Chain, ClLaunch

if TYPE_CHECKING:
    from perfxlm_opencl.device import OpenClDevice


class _Ready:
    """A launch with its kernel object."""

    def __init__(self, launch: ClLaunch) -> None:
        self.launch = launch
        self.kernel = cl.Kernel(launch.program, launch.kernel)
        self.changing: list[tuple[int, Dim]] = []
        self.values: dict[int, int] = {}
        for index, value in enumerate(launch.arguments):
            if isinstance(value, Dim):
                self.changing.append((index, value))
            else:
                self.kernel.set_arg(index, value)

    def resize(
        self, sizes: Mapping[str, int]
    ) -> tuple[Any, tuple[int, ...], tuple[int, ...]] | None:
        """What to enqueue under these sizes; None if there is nothing to do."""
        extent = self.launch.global_size(sizes)
        if extent is None:
            return None
        for index, dim in self.changing:
            value = dim.value(sizes)
            if self.values.get(index) != value:
                self.kernel.set_arg(index, np.int32(value))
                self.values[index] = value
        return self.kernel, extent, self.launch.local


def sweep(device: OpenClDevice, launches: Sequence[ClLaunch], symbols: Sequence[str]) -> Program:
    """One call for all of these.

    Raises:
        DeviceError: a kernel cannot be launched; says which, and over what.
    """
    names = tuple(symbols)
    with device.errors("setting the arguments of kernels"):
        ready = [_Ready(one) for one in launches]
    queue, enqueue = device.queue, cl.enqueue_nd_range_kernel
    last: tuple[int, ...] | None = None
    entries: list[tuple[Any, tuple[int, ...], tuple[int, ...]]] = []

    def run(sizes: Mapping[str, int]) -> None:
        nonlocal last, entries
        now = tuple([sizes[name] for name in names])
        entry: tuple[Any, ...] = ()
        try:
            if now != last:
                last = None
                entries = [made for one in ready if (made := one.resize(sizes)) is not None]
                last = now
            for entry in entries:
                enqueue(queue, *entry)
            queue.flush()
        except cl.Error as error:
            raise DeviceError(
                f"{device.label} failed to launch a kernel {_shown(entry)}with sizes "
                f"{dict(zip(names, now, strict=True))}: {error}; if the device was reset or "
                "taken away, load the model again"
            ) from error

    run.entries = ready  # type: ignore[attr-defined]  # for tests and counts
    return run


def _shown(entry: tuple[Any, ...]) -> str:
    return f"({entry[0].function_name} {entry[1]} in groups of {entry[2]}) " if entry else ""


def mixed_program(
    device: OpenClDevice, launches: Sequence[Launch], symbols: Sequence[str]
) -> Program:
    """Runs of our launches as one sweep each, other launches as they come."""
    parts: list[Program] = []
    run: list[ClLaunch] = []

    def close() -> None:
        if run:
            parts.append(sweep(device, list(run), symbols))
            run.clear()

    for one in launches:
        if isinstance(one, ClLaunch):
            run.append(one)
        elif isinstance(one, Chain):
            run.extend(one.parts)
        else:
            close()
            parts.append(one)
    close()
    if len(parts) == 1:
        return parts[0]

    def replay(sizes: Mapping[str, int]) -> None:
        for part in parts:
            part(sizes)

    return replay
