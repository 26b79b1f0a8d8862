"""What a device is to the core: memory, copies, and a way to run a whole plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap
from typing import Any, Protocol

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

    The memory starts `offset` bytes into `buffer` and is at least 64-byte aligned.
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
"""A whole plan, bound: one call runs a step."""


class Device(Protocol):
    """One device of a plugin. Nine methods; `program` is the one that is worth work."""

    name: str
    host_visible: bool
    """Whether `view` gives NumPy arrays on the memory itself, so that no copies are needed."""

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


def loop(launches: Sequence[Launch]) -> Program:
    """The plainest program: one launch after the other."""
    frozen = tuple(launches)

    def run(sizes: Mapping[str, int]) -> None:
        for launch in frozen:
            launch(sizes)

    return run


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
