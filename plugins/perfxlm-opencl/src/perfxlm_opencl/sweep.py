"""A whole plan as one sweep of enqueues.

Each launch has a kernel object of its own, whose arguments are set once. A step with the sizes of
the one before does nothing but enqueue; other sizes set the arguments that depend on them first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import groupby
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

import numpy as np
import pyopencl as cl

from perfxlm_core.plugin import DeviceError, Dim, Span
from perfxlm_opencl.launch import ClLaunch

if TYPE_CHECKING:
    from perfxlm_opencl.commands import Entry
    from perfxlm_opencl.device import OpenClDevice

Sizes = tuple[int, ...]
"""A step's sizes, in the order of a program's symbols."""


class Ready:
    """A launch with its kernel object, which is made when it first runs.

    A node may have launches for few tokens and for many, and never need some.

    Args:
        launch: which.
        number: of the node that it is part of, in the list that a program was made from.
    """

    def __init__(self, launch: ClLaunch, number: int) -> None:
        self.launch, self.number = launch, number
        self.values: dict[int, int] = {}
        self.changing = [(i, v) for i, v in enumerate(launch.arguments) if isinstance(v, Dim)]

    @cached_property
    def kernel(self) -> cl.Kernel:
        """Its arguments are set, but for those that depend on a step's sizes."""
        made = cl.Kernel(self.launch.program, self.launch.kernel)
        for index, value in enumerate(self.launch.arguments):
            if not isinstance(value, Dim):
                made.set_arg(index, value)
        return made

    def resize(self, sizes: Mapping[str, int]) -> Entry | None:
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


class Sweep:
    """One call for all of these.

    Args:
        device: where they run.
        launches: in order.
        symbols: names of a step's sizes.
        numbers: for each launch, the number of its node; by default its own.

    Attributes:
        entries: the launches with their kernels.

    Raises:
        DeviceError: by calls, when a kernel cannot be launched: which, and over what.
    """

    def __init__(
        self,
        device: OpenClDevice,
        launches: Sequence[ClLaunch],
        symbols: Sequence[str],
        numbers: Sequence[int] | None = None,
    ) -> None:
        self.device, self.queue = device, device.queue
        self._names = tuple(symbols)
        numbers = range(len(launches)) if numbers is None else numbers
        self.entries = [Ready(o, n) for o, n in zip(launches, numbers, strict=True)]
        self._last: Sizes | None = None
        self._active: list[Entry] = []
        self._numbers: list[int] = []

    def __call__(self, sizes: Mapping[str, int]) -> None:
        """Run a step."""
        entry: Any = None
        queue, enqueue = self.queue, cl.enqueue_nd_range_kernel
        try:
            for entry in self.resized(sizes):
                enqueue(queue, *entry)
            queue.flush()
        except cl.Error as error:
            raise self._failure(entry, sizes, error) from error

    def copy(self) -> Sweep:
        """The same with kernels of its own."""
        launches, numbers = zip(*[(one.launch, one.number) for one in self.entries], strict=True)
        return Sweep(self.device, launches, self._names, numbers)

    def key(self, sizes: Mapping[str, int]) -> Sizes:
        """The sizes that matter here."""
        return tuple([sizes[name] for name in self._names])

    def named(self, key: Sizes) -> dict[str, int]:
        """The sizes with their names, for messages."""
        return dict(zip(self._names, key, strict=True))

    def resized(self, sizes: Mapping[str, int]) -> Sequence[Entry]:
        """What to enqueue under these sizes, with the arguments of all kernels set for them."""
        now = self.key(sizes)
        if now != self._last:
            self._last = None
            made = [(one.number, one.resize(sizes)) for one in self.entries]
            self._active = [entry for _, entry in made if entry is not None]
            self._numbers = [number for number, entry in made if entry is not None]
            self._last = now
        return self._active

    def profile(self, sizes: Mapping[str, int]) -> list[Span]:
        """Run a step, timed by the device: a span for each node that has something to do."""
        self.device.synchronize()
        queue, entry = self.device.timing_queue, None
        before = perf_counter_ns()
        events = []
        try:
            for entry in self.resized(sizes):
                events.append(cl.enqueue_nd_range_kernel(queue, *entry))
            queue.finish()
            after = perf_counter_ns()
            times = [(e.profile.queued, e.profile.start, e.profile.end) for e in events]
        except cl.Error as error:
            raise self._failure(entry, sizes, error) from error
        return list(_spans(self._numbers, times, before, after))

    def _failure(
        self, entry: Entry | None, sizes: Mapping[str, int], error: cl.Error
    ) -> DeviceError:
        shown = f"({entry[0].function_name} {entry[1]} in groups of {entry[2]}) " if entry else ""
        return DeviceError(
            f"{self.device.label} failed to launch a kernel {shown}with sizes "
            f"{self.named(self.key(sizes))}: {error}; if the device was reset or "
            "taken away, load the model again"
        )


def _spans(
    numbers: Sequence[int], times: Sequence[tuple[int, int, int]], before: int, after: int
) -> Iterator[Span]:
    """Spans of nodes from the times of their kernels, on the host's clock.

    The device's clock is the host's moved by something: the first kernel was enqueued after
    `before`, and the last one ended before `after`.
    """
    if not times:
        return
    shift = min(before - times[0][0], after - times[-1][2])
    arrived = before
    for number, group in groupby(zip(numbers, times, strict=True), key=lambda one: one[0]):
        kernels = [time for _, time in group]
        start, end = kernels[0][1] + shift, kernels[-1][2] + shift
        start = max(start, arrived)
        end = max(end, start)
        yield Span(number, 0, arrived, start, end)
        arrived = end
