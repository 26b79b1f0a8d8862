"""Memory of a device: small pieces share slabs, large ones have buffers of their own."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyopencl as cl

from perfxlm_core.plugin import MemoryPlanError, itemsize
from perfxlm_opencl.profiles import Facts

SLAB = 4 << 20
"""Bytes of a slab; a piece of more than a quarter has a buffer of its own."""


@dataclass(frozen=True, eq=False)
class Region:
    """A piece of a buffer: what the core's `Buffer.handle` is.

    Attributes:
        memory: the OpenCL buffer.
        offset: where the piece begins, in bytes.
        keep: owner of host memory that the buffer uses in place.
    """

    memory: cl.Buffer
    offset: int
    keep: Any = None


@dataclass(frozen=True)
class View:
    """An array in device memory: what `Device.view` gives, for copies.

    Attributes:
        memory: the OpenCL buffer.
        offset: of the first element, in bytes.
        shape: lengths.
        dtype: name of the elements' type.
    """

    memory: cl.Buffer
    offset: int
    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return int(np.prod(self.shape, dtype=np.int64)) * itemsize(self.dtype)


class Pool:
    """All memory that a device gives.

    Args:
        name: the device's, for messages.
        facts: its limits.
        queue: on which memory is zeroed.
    """

    def __init__(self, name: str, facts: Facts, queue: cl.CommandQueue) -> None:
        self.name, self.facts, self.queue = name, facts, queue
        self.used = 0
        self._slab: cl.Buffer | None = None
        self._filled = 0

    def take(self, nbytes: int) -> Region:
        """Zeroed memory, aligned for every type and for the device.

        Raises:
            MemoryPlanError: it is more than one buffer can hold, or than is left.
        """
        size = self._rounded(max(nbytes, 1))
        self._check(size)
        region = Region(self._create(size), 0) if size > SLAB // 4 else self._piece(size)
        self._fill(region, size)
        self.used += size
        weakref.finalize(region, self._give_back, size)
        return region

    def wrap(self, data: np.ndarray) -> Region | None:
        """Host memory used in place, read only; None if the device cannot.

        Processors take any address. Graphics processors that share the host's memory want whole
        pages.
        """
        page = 4096
        aligned = data.ctypes.data % page == 0 and data.nbytes % 64 == 0
        if not self.facts.unified or not data.nbytes or not (self.facts.is_cpu or aligned):
            return None
        if data.nbytes > self.facts.max_allocation:
            return None
        flags = cl.mem_flags.READ_ONLY | cl.mem_flags.USE_HOST_PTR
        try:
            return Region(cl.Buffer(self.queue.context, flags, hostbuf=data), 0, data)
        except cl.Error:
            return None

    def _piece(self, size: int) -> Region:
        if self._slab is None or self._filled + size > SLAB:
            self._slab, self._filled = self._create(SLAB), 0
        at = self._filled
        self._filled += size
        return Region(self._slab, at)

    def _create(self, size: int) -> cl.Buffer:
        try:
            return cl.Buffer(self.queue.context, cl.mem_flags.READ_WRITE, size)
        except cl.Error as error:
            raise self._refusal(size, str(error)) from error

    def _fill(self, region: Region, size: int) -> None:
        try:
            cl.enqueue_fill_buffer(
                self.queue, region.memory, np.zeros(1, np.uint8), region.offset, size
            )
        except cl.Error as error:
            raise self._refusal(size, str(error)) from error

    def _check(self, size: int) -> None:
        if size > self.facts.max_allocation:
            raise self._refusal(size, f"one buffer holds {self.facts.max_allocation} at most")
        if self.used + size > self.facts.memory:
            raise self._refusal(size, "that is more than there is")

    def _refusal(self, size: int, why: str) -> MemoryPlanError:
        return MemoryPlanError(
            f"{self.name} ({self.facts.device}) cannot give {size} bytes: {why}; it has "
            f"{self.facts.memory} bytes, {self.used} are taken; use a smaller model or format, or "
            "lower gpu_memory_utilization, max_num_batched_tokens or max_model_len"
        )

    def _rounded(self, size: int) -> int:
        step = max(self.facts.alignment, 128)
        return -(-size // step) * step

    def _give_back(self, size: int) -> None:
        self.used -= size
