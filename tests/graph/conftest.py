"""Devices of the tests' own: the reference alone, and one with simple NumPy kernels."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from perfxlm_core import ops
from perfxlm_core.plugin import DeviceInfo, HostMemory, KernelSet, Launch, Program, Registry, loop


class HostDevice(HostMemory):
    """A device whose memory is the host's, and whose program is the plain loop."""

    name = "host"

    def __init__(self, total: int = 8 << 30) -> None:
        self.total = total

    def describe(self) -> DeviceInfo:
        return DeviceInfo("host", "tests", "NumPy", self.total)

    def free_memory(self) -> int:
        return self.total

    def dtypes(self) -> Sequence[str]:
        return ["float32"]

    def program(self, launches: Sequence[Launch], symbols: Sequence[str]) -> Program:
        return loop(launches)


class RemoteDevice(HostDevice):
    """The same behind copies, as if its memory were its own."""

    name = "remote"
    host_visible = False


def simple_kernels(device: str = "host") -> KernelSet:
    """Simple kernels for a few operators; the others fall back."""
    kernels = KernelSet(vendor="tests", device=device)

    @kernels.implements(ops.add)
    def add(out: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
        np.add(a, b, out=out)

    @kernels.implements(ops.linear)
    def linear(
        out: np.ndarray,
        x: np.ndarray,
        weight: np.ndarray,
        bias: np.ndarray | None,
        *,
        exact: bool,
    ) -> None:
        np.matmul(x, weight.T, out=out)
        if bias is not None:
            out += bias

    @kernels.implements(ops.store_kv)
    def store_kv(
        k: np.ndarray,
        v: np.ndarray,
        k_cache: np.ndarray,
        v_cache: np.ndarray,
        slot_mapping: np.ndarray,
    ) -> None:
        ops.store_kv(k, v, k_cache, v_cache, slot_mapping)

    return kernels


@pytest.fixture
def host() -> HostDevice:
    return HostDevice()


@pytest.fixture
def remote() -> RemoteDevice:
    return RemoteDevice()


@pytest.fixture
def registry() -> Registry:
    found = Registry()
    found.extend(simple_kernels("host"))
    found.extend(simple_kernels("remote"))
    return found


Sizes = Mapping[str, int]
