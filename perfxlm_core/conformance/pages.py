"""Pages that nobody may touch: a kernel that reads or writes there is killed at once."""

from __future__ import annotations

import ctypes
import mmap
import os

from perfxlm_core.errors import DeviceError

PAGE = mmap.PAGESIZE
"""Bytes of a page."""


def forbid(address: int) -> None:
    """Let every access to the page at `address` end in a segmentation fault.

    Raises:
        DeviceError: the system refuses.
    """
    _protect(address, 0)


def permit(address: int) -> None:
    """Make a page ordinary memory again; for arguments see `forbid`."""
    _protect(address, mmap.PROT_READ | mmap.PROT_WRITE)


def _protect(address: int, access: int) -> None:
    change = ctypes.CDLL(None, use_errno=True).mprotect
    change.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    if change(address, PAGE, access):
        reason = os.strerror(ctypes.get_errno())
        raise DeviceError(f"cannot change the access to a page at {address:#x}: {reason}")
