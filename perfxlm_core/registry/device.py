"""What a device is to the core: memory, copies, and a way to run a whole plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap
from time import perf_counter_ns
from typing import Any, Protocol, runtime_checkable

import numpy as np

from perfxlm_core.ops.types import Shape, concrete, numpy_dtype


@dataclass(frozen=True)
class DeviceInfo:
    """What `perfxlm devices` prints about a device.

    Attributes:
        name: how users name it: "cpu", "opencl:1".
        vendor: the plugin that offers it.
        description: model name and what was chosen for it, in one line.
        total_memory: bytes that the device (or this process's cgroup) has.
        details: further facts, label -> text: threads, instruction sets, caches, driver.
    """

    name: str
    vendor: str
    description: str
    total_memory: int
    details: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Buffer:
    """A piece of a device's memory. `handle` is the device's own; the core never looks inside."""

    handle: Any
    nbytes: int


@dataclass(frozen=True)
class Operand:
    """An argument of a node, placed: where it is, its dtype, and its shape.

    The memory starts `offset` bytes into `buffer` and is at least 64-byte aligned; a plain constant
    that stays in its file (where the device sees the host's memory) only to its elements. Elements
    are contiguous. An output never shares memory with an input; two inputs may be the same value.
    Dimensions may be symbols ("tokens", "seqs", "rows") that only a step makes concrete.
    """

    name: str
    shape: Shape
    dtype: str
    buffer: Buffer
    offset: int


Launch = Callable[[Mapping[str, int]], None]
"""A bound node: called with this step's sizes of the symbols. Devices may subclass what they like
into it, as long as their own `program` understands it."""

Program = Callable[[Mapping[str, int]], None]
"""A whole plan, bound: one call runs a step.

A program may have a method `profile(sizes) -> list[Span]` that runs the same step and says when
each launch ran; see `ProfiledProgram`. `perfxlm profile` then times the program as it is, and
otherwise its launches one by one, each followed by `synchronize`.
"""


@dataclass(frozen=True)
class Span:
    """When one lane (a thread, a queue) worked on one launch of a program.

    Attributes:
        launch: its index in the list that the program was made from.
        lane: from 0 on.
        arrived: when the lane came to it, in nanoseconds of `time.perf_counter_ns`; what passed
            until `start` is waiting for other lanes.
        start: when the lane began.
        end: when it was done.
    """

    launch: int
    lane: int
    arrived: int
    start: int
    end: int


@runtime_checkable
class ProfiledProgram(Protocol):
    """A program that can say where its time goes. Profiling costs nothing where it is not used."""

    def __call__(self, sizes: Mapping[str, int]) -> None:
        """Run a step."""
        ...

    def profile(self, sizes: Mapping[str, int]) -> list[Span]:
        """Run a step, timed: a span for each launch and lane, a lane's in order of time.

        Launches that have nothing to do in the step may be left out.
        """
        ...


class Device(Protocol):
    """One device of a plugin. Nine methods; `program` is the one that is worth work.

    A device may have a tenth, `limits() -> Mapping[str, float]`: what it can do at most, measured
    on it, for `perfxlm conformance --perf` to compare with. Keys, any of them: "read" (bytes/s from
    its memory), "float32" (floating-point operations/s), "int8" (operations/s of products of 8-bit
    integers with integer sums); a multiplication with an addition counts as two operations.

    And `tuning() -> AbstractContextManager[list[str]]`, for `perfxlm tune`: kernels that are bound
    in the context are measured in several shapes, in steps of up to 64 tokens, and the best are
    kept for the next time; the list is of lines about them.
    """

    name: str
    host_visible: bool
    """Whether `view` gives NumPy arrays on the memory itself, so that no copies are needed.

    A device that has the host's memory but not its addresses (an integrated GPU) also says
    `shares_memory = True`: then it gets a modest KV cache rather than all that is free.
    """

    def describe(self) -> DeviceInfo:
        """Facts for people."""
        ...

    def free_memory(self) -> int:
        """Bytes that can be allocated now."""
        ...

    def dtypes(self) -> Sequence[str]:
        """Activation dtypes in order of preference; the first is what "auto" means."""
        ...

    def allocate(self, nbytes: int) -> Buffer:
        """Memory, 64-byte aligned and zeroed; raises MemoryPlanError when there is none."""
        ...

    def view(self, buffer: Buffer, offset: int, shape: tuple[int, ...], dtype: str) -> Any:  # noqa: ANN401
        """The array type that this device's simple kernels take, on that memory."""
        ...

    def copy_in(self, target: Any, source: np.ndarray) -> None:  # noqa: ANN401
        """Host array to a view."""
        ...

    def copy_out(self, target: np.ndarray, source: Any) -> None:  # noqa: ANN401
        """A view to a host array."""
        ...

    def synchronize(self) -> None:
        """Wait until everything that was launched has happened."""
        ...

    def program(self, launches: Sequence[Launch], symbols: Sequence[str]) -> Program:
        """Turn launches, in order, into one call; `loop` is a fine first implementation."""
        ...


def kind_of(device: Device) -> str:
    """What kernels are made for: the device's name without its number ("x:1" is an "x")."""
    return device.name.split(":")[0]


def loop(launches: Sequence[Launch]) -> Program:
    """The plainest program: one launch after the other."""
    frozen = tuple(launches)

    def run(sizes: Mapping[str, int]) -> None:
        for launch in frozen:
            launch(sizes)

    return run


def timed(launch: Launch, sizes: Mapping[str, int], device: Device | None = None) -> list[Span]:
    """Run one launch; its span as launch 0 of lane 0. `device` is waited for."""
    start = perf_counter_ns()
    launch(sizes)
    if device is not None:
        device.synchronize()
    return [Span(0, 0, start, start, perf_counter_ns())]


def operand_view(device: Device, operand: Operand, sizes: Mapping[str, int]) -> Any:  # noqa: ANN401
    """The operand as the device's array, under this step's sizes."""
    shape = concrete(operand.shape, sizes)
    return device.view(operand.buffer, operand.offset, shape, operand.dtype)


class HostMemory:
    """The memory half of a device whose memory is the host's: NumPy arrays all the way."""

    host_visible = True

    def allocate(self, nbytes: int) -> Buffer:
        """Zeroed bytes, 64-byte aligned; pages are taken from the system at their first use.

        They are mapped, not taken from the heap: a heap that has been used before zeroes by
        writing, which makes every page resident at once, and keeps what is given back.
        """
        from perfxlm_core.errors import MemoryPlanError

        try:
            pages = mmap(-1, max(nbytes, 1), flags=MAP_PRIVATE | MAP_ANONYMOUS)
        except OSError as error:
            raise MemoryPlanError(f"cannot allocate {nbytes} bytes on the host") from error
        return Buffer(np.frombuffer(pages, np.uint8, nbytes), nbytes)

    def view(self, buffer: Buffer, offset: int, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """A NumPy array on the buffer."""
        kind = numpy_dtype(dtype)
        size = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
        array: np.ndarray = buffer.handle[offset : offset + size].view(kind).reshape(shape)
        return array

    def copy_in(self, target: np.ndarray, source: np.ndarray) -> None:
        """Copy between host arrays."""
        np.copyto(target, source)

    def copy_out(self, target: np.ndarray, source: np.ndarray) -> None:
        """Copy between host arrays."""
        np.copyto(target, source)

    def synchronize(self) -> None:
        """Nothing runs behind the caller's back."""
