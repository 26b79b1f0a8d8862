"""Command buffers: kernels recorded once, then enqueued by a single call (cl_khr_command_buffer).

pyopencl does not know the extension, so its functions are called through ctypes, in the loader
that pyopencl itself uses. Those used here have had the same arguments since version 0.9.0; barriers
and copies, whose arguments changed with 0.9.5, are not used. Recorded for a queue that is in order,
each command follows the one before.
"""

from __future__ import annotations

import ctypes
import logging
import os
import weakref
from collections.abc import Callable, Sequence
from ctypes import c_char_p, c_int32, c_size_t, c_uint32, c_uint64, c_void_p
from typing import Any

import pyopencl as cl
from pyopencl import _cl

from perfxlm_core.plugin import DeviceError
from perfxlm_opencl.profiles import Facts

log = logging.getLogger(__name__)

RECORD = "PERFXLM_OPENCL_RECORD"
"""Environment variable: "never" or "always"; by default what is quicker for the host."""

EXTENSION = "cl_khr_command_buffer"
Version = tuple[int, int, int]
Entry = tuple[Any, tuple[int, ...], tuple[int, ...]]
"""A kernel with its arguments set, its work-items, and those of a group."""

_OLDEST, _UNKNOWN = (0, 9, 0), (2, 0, 0)
_QUEUED_TWICE = (0, 9, 8)
"""From here on, a command buffer may be enqueued again to a queue in order before it is done."""
_ARGUMENTS_KEPT = (1, 0, 0)
"""From here on, what a kernel is set to later surely changes nothing that was recorded: the first
versions did not say so, and PoCL 3.1 (0.9.0) forgets integers."""
_CAPABILITIES, _REQUIRED_QUEUE = 0x12A9, 0x12AA
_CAN_SIMULTANEOUS_USE = 1 << 2
_FLAGS, _SIMULTANEOUS_USE = 0x1293, 1 << 0
_INVALID_OPERATION = -59

_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "clCreateCommandBufferKHR": (c_void_p, c_uint32, c_void_p, c_void_p, c_void_p),
    "clCommandNDRangeKernelKHR": (
        *(c_int32, c_void_p, c_void_p, c_void_p, c_void_p, c_uint32, c_void_p, c_void_p),
        *(c_void_p, c_uint32, c_void_p, c_void_p, c_void_p),
    ),
    "clFinalizeCommandBufferKHR": (c_int32, c_void_p),
    "clEnqueueCommandBufferKHR": (c_int32, c_uint32, c_void_p, c_void_p, c_uint32, c_void_p,
                                  c_void_p),
    "clReleaseCommandBufferKHR": (c_int32, c_void_p),
}  # fmt: skip
"""Name -> result and arguments."""


def wish() -> str:
    """What the environment says about recording: "auto", "always" or "never".

    Raises:
        DeviceError: it says something else.
    """
    said = os.environ.get(RECORD, "").strip().lower() or "auto"
    if said not in ("auto", "always", "never"):
        raise DeviceError(f"{RECORD}={said!r}: want always, never, or nothing for what is quicker")
    return said


def loses_memory(facts: Facts) -> bool:
    """Whether the driver is known to lose memory at every replay, so that only a wish records.

    Intel's runtime for processors (2026.2) loses 2 KB for each kernel, however it is recorded.
    """
    return facts.is_cpu and facts.platform.startswith("Intel")


class Commands:
    """The extension's functions on one device.

    Args:
        device: which.
        queue: in order; recordings are made for it.
        version: of the extension.

    Attributes:
        refused: whether the driver has refused a recording; then nothing is recorded any more.
    """

    def __init__(self, device: cl.Device, queue: cl.CommandQueue, version: Version) -> None:
        self.version, self.refused = version, False
        self._context, self._queue = queue.context, queue  # some drivers end both too early
        find = _loader().clGetExtensionFunctionAddressForPlatform
        find.restype, find.argtypes = c_void_p, (c_void_p, c_char_p)
        self._call = {n: _function(find, device.platform, n) for n in _SIGNATURES}
        self._enqueue = self._call["clEnqueueCommandBufferKHR"]
        can = _bits(device, _CAPABILITIES) & _CAN_SIMULTANEOUS_USE
        self._flags = _SIMULTANEOUS_USE if can and version < _QUEUED_TWICE else 0

    @staticmethod
    def of(device: cl.Device, queue: cl.CommandQueue) -> Commands | None:
        """The extension on a device; None if it has none that is known, or not for such a queue."""
        version = offered(device)
        if version is None or not _OLDEST <= version < _UNKNOWN:
            return None
        try:
            if _bits(device, _REQUIRED_QUEUE) & ~int(queue.properties):
                return None
            return Commands(device, queue, version)
        except (AttributeError, OSError, cl.Error) as error:
            log.info("%s has %s, but it cannot be used: %s", device.name, EXTENSION, error)
            return None

    @property
    def keeps_arguments(self) -> bool:
        """Whether a recorded kernel may be given other arguments."""
        return self.version >= _ARGUMENTS_KEPT

    def refuse(self, label: str, error: Exception) -> None:
        """Say once that a recording has failed, and record no more."""
        if not self.refused:
            log.warning(
                "%s does not record kernels (%s); they are launched one by one", label, error
            )
        self.refused = True

    def create(self) -> int:
        """An empty command buffer, to be released."""
        status, queues = c_int32(0), (c_void_p * 1)(self._queue.int_ptr)
        flags = (c_uint64 * 3)(_FLAGS, self._flags, 0) if self._flags else None
        name = "clCreateCommandBufferKHR"
        handle = self._call[name](1, queues, flags, ctypes.byref(status))
        _check(name, status.value)
        return int(handle)

    def add(self, handle: int, entry: Entry) -> None:
        """Record a kernel, with its arguments as they are now."""
        kernel, extent, local = entry
        rank, name = len(extent), "clCommandNDRangeKernelKHR"
        sizes = c_size_t * rank
        status = self._call[name](
            *(handle, None, None, kernel.int_ptr, rank, None, sizes(*extent), sizes(*local)),
            *(0, None, None, None),
        )
        _check(name, status)

    def close(self, handle: int) -> None:
        """End recording."""
        name = "clFinalizeCommandBufferKHR"
        _check(name, self._call[name](handle))

    def enqueue(self, handle: int) -> bool:
        """Enqueue what was recorded; False if it still runs and may not be enqueued twice."""
        status = self._enqueue(0, None, handle, 0, None, None)
        if status == _INVALID_OPERATION and self.version < _QUEUED_TWICE and not self._flags:
            return False
        if status:
            _check("clEnqueueCommandBufferKHR", status)
        return True

    def release(self, handle: int) -> None:
        """Give a command buffer back; the driver keeps it until it has run."""
        self._call["clReleaseCommandBufferKHR"](handle)


class Recording:
    """Kernels as they were when they were recorded; given back with the object.

    Args:
        commands: of the device.
        entries: kernels, in order.
        keep: owners of the memory that they use, which recording does not retain.

    Attributes:
        proven: whether the driver has taken it once; some refuse only then what they cannot do.

    Raises:
        cl.Error: the driver does not record them.
    """

    def __init__(self, commands: Commands, entries: Sequence[Entry], keep: object) -> None:
        self.entries, self.proven, self._keep = tuple(entries), False, keep
        self._commands, self._handle = commands, commands.create()
        weakref.finalize(self, commands.release, self._handle)
        for entry in entries:
            commands.add(self._handle, entry)
        commands.close(self._handle)

    def replay(self) -> bool:
        """Enqueue all; False if they still run from the last time and the driver wants to wait."""
        done = self._commands.enqueue(self._handle)
        self.proven = self.proven or done
        return done


def offered(device: cl.Device) -> Version | None:
    """Version of the extension on a device, the oldest if it does not say; None without it."""
    if EXTENSION not in device.extensions.split():
        return None
    try:
        found = {one.name: one.version for one in device.extensions_with_version}
    except (cl.Error, AttributeError):  # devices older than OpenCL 3.0
        found = {}
    version = found.get(EXTENSION)
    if version is None:
        return _OLDEST
    return version >> 22, version >> 12 & 0x3FF, version & 0xFFF


def _loader() -> ctypes.CDLL:
    """The module of pyopencl: names are looked up in what it is linked with, too."""
    return ctypes.CDLL(_cl.__file__)


def _function(find: Callable[..., int | None], platform: cl.Platform, name: str) -> Any:  # noqa: ANN401
    address = find(platform.int_ptr, name.encode())
    if not address:
        raise AttributeError(f"the driver has no {name}")
    return ctypes.CFUNCTYPE(*_SIGNATURES[name])(address)


def _bits(device: cl.Device, name: int) -> int:
    ask, found = _loader().clGetDeviceInfo, c_uint64(0)
    ask.argtypes = (c_void_p, c_uint32, c_size_t, c_void_p, c_void_p)
    _check("clGetDeviceInfo", ask(device.int_ptr, name, 8, ctypes.byref(found), None))
    return found.value


def _check(name: str, status: int) -> None:
    if status:
        raise cl.RuntimeError(f"{name} failed: {cl.status_code.to_string(status, 'error %d')}")
