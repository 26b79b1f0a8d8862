"""What every device must do before a kernel of its can be trusted: memory, copies, programs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from perfxlm_core.conformance.case import Failure
from perfxlm_core.conformance.check import Outcome
from perfxlm_core.conformance.node import in_a_line
from perfxlm_core.errors import MemoryPlanError
from perfxlm_core.ops.types import numpy_dtype
from perfxlm_core.registry.device import Device

DTYPES = ("float32", "float16", "bfloat16", "float64", "int32", "int64", "int8", "uint8", "bool")
"""Of operands that plans place, for one reason or another."""
LENGTHS = (0, 1, 3, 17, 63, 64, 65, 1000, 4099)
"""Elements of the arrays that are copied."""
OFFSETS = (0, 64, 192, 1088)
"""Bytes into a buffer at which they lie."""
TOO_MUCH = 1 << 56
"""Bytes that no machine has."""


@dataclass(frozen=True)
class DeviceCase:
    """One check of a device, none of its kernels.

    Attributes:
        check: a name among `CHECKS`.
    """

    check: str


def run_device_case(device: Device, case: DeviceCase) -> Outcome:
    """Try a device with a case.

    Raises:
        Failure: it does something wrong.
    """
    wrong = _failure(CHECKS[case.check], device)
    if wrong is not None:
        raise Failure("device", wrong)
    return Outcome()


def device_checks(device: Device) -> list[tuple[str, str | None]]:
    """Try a device without any kernel.

    Args:
        device: what is tried.

    Returns:
        For each check its name, and what is wrong in a line; None if nothing is.
    """
    return [(name, _failure(check, device)) for name, check in CHECKS.items()]


def _failure(check: Callable[[Device], str | None], device: Device) -> str | None:
    try:
        return check(device)
    except Exception as error:
        return f"raises {in_a_line(error)}"


def _description(device: Device) -> str | None:
    info = device.describe()
    if info.name != device.name:
        return f"describe() calls it {info.name!r}, but its name is {device.name!r}"
    free, total = device.free_memory(), info.total_memory
    if not 0 < free <= total:
        return f"{free} bytes of {total} are free"
    return None if device.dtypes() else "dtypes() is empty; name at least one activation dtype"


def _zeroed(device: Device) -> str | None:
    for _ in range(3):
        buffer = device.allocate(4096)
        if buffer.nbytes < 4096:
            return f"allocate(4096) gave {buffer.nbytes} bytes"
        found = np.full(4096, 7, np.uint8)
        view = device.view(buffer, 0, (4096,), "uint8")
        device.copy_out(found, view)
        if found.any():
            return "memory is not zeroed when it is allocated"
        device.copy_in(view, np.full(4096, 0xFF, np.uint8))
        del buffer, view
    return None


def _nothing(device: Device) -> str | None:
    buffer = device.allocate(0)
    view = device.view(buffer, 0, (0, 5), "float32")
    device.copy_in(view, np.empty((0, 5), np.float32))
    device.copy_out(np.empty((0, 5), np.float32), view)
    return None


def _too_much(device: Device) -> str | None:
    try:
        device.allocate(TOO_MUCH)
    except MemoryPlanError as error:
        return None if str(error) else "allocating too much raises MemoryPlanError without a text"
    except Exception as error:
        return f"allocating too much raises {in_a_line(error)}; MemoryPlanError is expected"
    return f"allocate({TOO_MUCH}) succeeds"


def _roundtrip(device: Device) -> str | None:
    """Any bytes, at any aligned offset; the bytes beside them stay."""
    rng = np.random.default_rng(0)
    for dtype in DTYPES:
        kind = numpy_dtype(dtype)
        for length in LENGTHS:
            offset, nbytes = int(rng.choice(OFFSETS)), length * kind.itemsize
            source = rng.integers(0, 2 if dtype == "bool" else 256, nbytes, np.uint8)
            whole = rng.integers(0, 256, offset + nbytes + 64, np.uint8)
            buffer = device.allocate(len(whole))
            around = device.view(buffer, 0, (len(whole),), "uint8")
            device.copy_in(around, whole)
            view = device.view(buffer, offset, (length,), dtype)
            device.copy_in(view, source.view(kind))
            back, after = np.empty(length, kind), np.empty_like(whole)
            device.copy_out(back, view)
            device.copy_out(after, around)
            what = f"{length} elements of {dtype} at byte {offset}"
            if back.tobytes() != source.tobytes():
                return f"{what}: other bytes come back"
            whole[offset : offset + nbytes] = source
            if after.tobytes() != whole.tobytes():
                return f"{what}: bytes beside them change, or they lie elsewhere"
    return None


def _shapes(device: Device) -> str | None:
    """Views of the same bytes in several shapes are row-major."""
    source = np.arange(120, dtype=np.float32)
    buffer = device.allocate(source.nbytes + 64)
    device.copy_in(device.view(buffer, 64, (120,), "float32"), source)
    for shape in ((120,), (1, 120), (2, 3, 4, 5), (120, 1), (10, 12)):
        found = np.empty(shape, np.float32)
        device.copy_out(found, device.view(buffer, 64, shape, "float32"))
        if found.tobytes() != source.tobytes():
            return f"a view of shape {list(shape)} is not in row-major order"
    return None


def _visible(device: Device) -> str | None:
    """Where `host_visible` is claimed, views are NumPy arrays on the memory itself."""
    if not device.host_visible:
        return None
    buffer = device.allocate(256)
    view = device.view(buffer, 64, (4,), "int32")
    if not isinstance(view, np.ndarray):
        return f"host_visible is true, but a view is a {type(view).__name__}"
    if view.ctypes.data % 64:
        return f"memory at byte 64 of a buffer is at {view.ctypes.data:#x}: not 64-byte aligned"
    view[...] = 5
    again = device.view(buffer, 64, (4,), "int32")
    return None if (again == 5).all() else "a second view does not see what the first wrote"


def _programs(device: Device) -> str | None:
    empty = device.program([], ())
    empty({})
    device.program([], ("tokens",))({"tokens": 0})
    device.synchronize()
    device.synchronize()
    return None


CHECKS = MappingProxyType(
    {
        "description": _description,
        "zeroed memory": _zeroed,
        "empty buffers": _nothing,
        "too much memory": _too_much,
        "copies of every dtype": _roundtrip,
        "shapes of views": _shapes,
        "host visible": _visible,
        "empty programs, synchronized twice": _programs,
    }
)
"""Name -> check; a check gives what is wrong, or None."""
