"""An OpenCL device: its memory, copies, and programs."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import pyopencl as cl

from perfxlm_core.plugin import (
    Buffer,
    DeviceError,
    DeviceInfo,
    Launch,
    Program,
    Site,
    Tensor,
)
from perfxlm_opencl.binaries import default_folder
from perfxlm_opencl.commands import Commands, loses_memory, offered, wish
from perfxlm_opencl.memory import Pool, Region, View
from perfxlm_opencl.peaks import measure_limits
from perfxlm_opencl.profiles import Facts, Profile, choose
from perfxlm_opencl.program import program_of
from perfxlm_opencl.programs import Programs
from perfxlm_opencl.progress import Progress
from perfxlm_opencl.tuning import Tuned

_STAGED_BYTES = 1 << 16
"""Copies to the device up to this size do not wait: they are taken from a copy of the host's."""
_STAGED_COPIES = 64
_CHUNK_BYTES = 16 << 20
"""Larger copies to the device are made in pieces of this size, with a progress bar."""


class OpenClDevice:
    """One device of one platform; nothing is created on it before it is used.

    Args:
        device: of pyopencl.
        index: its place among all devices; names the device, "opencl" being the first.
        profile: name of a profile to use instead of the one that fits.

    Raises:
        DeviceError: there is no such profile, or a variable of the environment says what it cannot.
    """

    host_visible = False

    def __init__(self, device: cl.Device, index: int = 0, *, profile: str | None = None) -> None:
        self.name = f"opencl:{index}" if index else "opencl"
        self.device = device
        self.facts = Facts.of(device)
        self.profile: Profile = choose(self.facts, profile)
        wish()
        self.shares_memory = self.facts.unified
        self._constants: weakref.WeakKeyDictionary[
            Tensor, weakref.WeakValueDictionary[str, Buffer]
        ] = weakref.WeakKeyDictionary()
        self._staged: list[Any] = []
        self.progress = Progress(self.name)

    @property
    def label(self) -> str:
        """Name and model, for messages."""
        return f"{self.name} ({self.facts.device} of {self.facts.platform})"

    @cached_property
    def context(self) -> cl.Context:
        """Kept as long as the device: some drivers end a context with its last reference."""
        with self.errors("creating a context"):
            return cl.Context([self.device])

    @cached_property
    def queue(self) -> cl.CommandQueue:
        """In order: launches and copies happen one after another."""
        with self.errors("creating a queue"):
            return cl.CommandQueue(self.context, self.device)

    @cached_property
    def timing_queue(self) -> cl.CommandQueue:
        """Like `queue`, but its events have times; made when something is timed."""
        with self.errors("creating a queue that takes times"):
            properties = cl.command_queue_properties.PROFILING_ENABLE
            return cl.CommandQueue(self.context, self.device, properties=properties)

    @cached_property
    def commands(self) -> Commands | None:
        """What records kernels; None if the device cannot, or had better not."""
        wished = wish()
        if wished == "never" or (wished == "auto" and loses_memory(self.facts)):
            return None
        return Commands.of(self.device, self.queue)

    @cached_property
    def pool(self) -> Pool:
        """Where memory comes from."""
        return Pool(self.name, self.facts, self.queue)

    @cached_property
    def programs(self) -> Programs:
        """Compiled programs."""
        return Programs(
            self.name,
            self.device,
            self.context,
            self.facts,
            self.profile,
            default_folder(),
            self.progress,
        )

    @cached_property
    def tuned(self) -> Tuned:
        """What was measured on this device."""
        return Tuned(default_folder(), self.facts, self.profile)

    def tuning(self) -> AbstractContextManager[list[str]]:
        """What is bound meanwhile is measured, and the winners are kept; gives lines about them."""
        return self.tuned.measuring()

    def describe(self) -> DeviceInfo:
        """Model, profile, and the limits that matter."""
        facts, recording = self.facts, offered(self.device)
        return DeviceInfo(
            name=self.name,
            vendor="opencl",
            description=f"{facts.device}, {facts.platform}, {self.profile.summary()}",
            total_memory=facts.memory,
            details={
                "driver": facts.driver,
                "OpenCL C": ".".join(map(str, facts.c_version)),
                "compute units": str(facts.compute_units),
                "work-group": f"{facts.max_work_group} work-items, {facts.local_memory >> 10} KiB",
                "one buffer": f"{facts.max_allocation >> 20} MiB at most",
                "memory is": "shared with the host" if facts.unified else "its own",
                "subgroups": ", ".join(map(str, facts.subgroup_sizes)) or "none",
                "fp16": "yes" if facts.has("cl_khr_fp16") else "storage only",
                "command buffers": "none" if recording is None else ".".join(map(str, recording)),
            },
        )

    def free_memory(self) -> int:
        """Bytes that are neither taken by this process nor, where memory is shared, by others."""
        taken = self.pool.used if "pool" in self.__dict__ else 0
        left = self.facts.memory - taken
        return max(0, min(left, _available()) if self.facts.unified else left)

    def dtypes(self) -> Sequence[str]:
        """float32 and float16; the latter needs no arithmetic in it, only its storage."""
        first = self.profile.activation
        return [first, *(d for d in ("float32", "float16") if d != first)]

    def allocate(self, nbytes: int) -> Buffer:
        """Zeroed memory; raises MemoryPlanError with the numbers when there is none."""
        return Buffer(self.pool.take(nbytes), nbytes)

    def constant(self, site: Site, tensor: Tensor) -> Buffer:
        """The bytes of a constant as they lie in its file, in place where memory is shared.

        Each constant is taken once, however many nodes use it.
        """
        return self.kept(tensor, "plain", lambda: self._place_bytes(site, tensor, tensor.data))

    def constant_rows(self, site: Site, tensor: Tensor, first: int, rows: int) -> Buffer:
        """The bytes of some rows of a constant, as `constant`."""
        size = tensor.nbytes // tensor.shape[0]
        data = tensor.data[first * size : (first + rows) * size]
        return self.kept(
            tensor, f"plain {first} {rows}", lambda: self._place_bytes(site, tensor, data)
        )

    def kept(self, tensor: Tensor, form: str, make: Callable[[], Buffer]) -> Buffer:
        """A constant in some form, made once and kept as long as a node uses it.

        Args:
            tensor: the constant.
            form: what names the form among this device's forms of the constant.
            make: makes it where there is none.
        """
        known = self._constants.setdefault(tensor, weakref.WeakValueDictionary())
        found = known.get(form)
        if found is None:
            found = make()
            known[form] = found
        return found

    def _place_bytes(self, site: Site, tensor: Tensor, data: np.ndarray) -> Buffer:
        wrapped = self.pool.wrap(data)
        if wrapped is not None:
            return Buffer(wrapped, data.nbytes)
        buffer: Buffer = site.pack(data.nbytes)
        self.copy_in(self.view(buffer, 0, (data.nbytes,), "uint8"), data)
        tensor.release()
        return buffer

    def view(self, buffer: Buffer, offset: int, shape: tuple[int, ...], dtype: str) -> View:
        """An array in device memory, for copies."""
        region: Region = buffer.handle
        return View(region.memory, region.offset + offset, tuple(shape), dtype)

    def copy_in(self, target: View, source: np.ndarray) -> None:
        """Host to device; small arrays are copied first, so that nobody waits."""
        if not source.nbytes:
            return
        if source.nbytes > _STAGED_BYTES:
            self._upload(target, np.ascontiguousarray(source).reshape(-1).view(np.uint8))
            return
        source = np.array(source, order="C")
        with self.errors(f"copying {source.nbytes} bytes to it"):
            done = cl.enqueue_copy(
                self.queue,
                target.memory,
                source.reshape(-1).view(np.uint8),
                dst_offset=target.offset,
                is_blocking=False,
            )
        self._staged.append((done, source))
        if len(self._staged) > _STAGED_COPIES:
            self.synchronize()

    def _upload(self, target: View, source: np.ndarray) -> None:
        """Bytes that the host may change when this returns."""
        for start in range(0, source.nbytes, _CHUNK_BYTES):
            chunk = source[start : start + _CHUNK_BYTES]
            with self.errors(f"copying {source.nbytes} bytes to it"):
                cl.enqueue_copy(
                    self.queue,
                    target.memory,
                    chunk,
                    dst_offset=target.offset + start,
                    is_blocking=True,
                )
            self.progress.uploading(chunk.nbytes)
        self._staged.clear()

    def copy_out(self, target: np.ndarray, source: View) -> None:
        """Device to host, when all that was launched before has happened."""
        if not target.nbytes:
            return
        whole = target if target.flags.c_contiguous else np.empty(target.shape, target.dtype)
        with self.errors(f"copying {whole.nbytes} bytes from it"):
            cl.enqueue_copy(
                self.queue,
                whole.reshape(-1).view(np.uint8),
                source.memory,
                src_offset=source.offset,
                is_blocking=True,
            )
        self._staged.clear()
        if whole is not target:
            target[...] = whole

    def synchronize(self) -> None:
        """Wait until everything that was launched has happened."""
        with self.errors("waiting for it"):
            self.queue.finish()
        self._staged.clear()

    def limits(self) -> Mapping[str, float]:
        """What it reaches when it only reads, or only multiplies and adds, measured now (0.6 s)."""
        return measure_limits(self)

    def program(self, launches: Sequence[Launch], symbols: Sequence[str]) -> Program:
        """A sweep of enqueues for each run of our own launches, replayed where that is quicker."""
        made = program_of(self, launches, symbols)
        self.progress.done()
        return made

    @contextmanager
    def errors(self, doing: str) -> Iterator[None]:
        """Errors of OpenCL as ours, with the device's name and what it was doing."""
        try:
            yield
        except cl.Error as error:
            raise DeviceError(
                f"{self.label} failed while {doing}: {error}; if the device was reset or taken "
                "away, load the model again; if memory ran out, lower max_num_batched_tokens or "
                "gpu_memory_utilization"
            ) from error


def _available() -> int:
    """Bytes that the host can still give."""
    try:
        with open("/proc/meminfo") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) << 10
    except OSError:
        pass
    return 1 << 62
