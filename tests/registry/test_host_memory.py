"""The host's memory: zeroed, aligned, taken page by page and given back."""

import subprocess
import sys

import numpy as np
import pytest

from perfxlm_core.errors import MemoryPlanError
from perfxlm_core.registry.device import HostMemory

MEGABYTE = 1 << 20


# Also where a heap would have kept the pages of an earlier buffer, to zero them by writing.
PAGES = """
import gc
from pathlib import Path
from perfxlm_core.registry.device import HostMemory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

size = 24 << 20
start = resident()
for _ in range(3):
    buffers = [HostMemory().allocate(size) for _ in range(4)]
    assert resident() - start < size / 2
    buffers[0].handle[:] = 1
    assert resident() - start > 0.9 * size
    del buffers
    gc.collect()
    assert resident() - start < size / 2
"""


@pytest.mark.parametrize("nbytes", [0, 1, 63, 4096, 5 * MEGABYTE + 3])
def test_it_is_zeroed_aligned_and_writable(nbytes):
    buffer = HostMemory().allocate(nbytes)
    assert buffer.nbytes == len(buffer.handle) == nbytes
    assert buffer.handle.ctypes.data % 64 == 0
    assert not buffer.handle.any()
    buffer.handle[:] = 7
    view = HostMemory().view(buffer, 0, (nbytes,), "uint8")
    assert view.sum(dtype=np.int64) == 7 * nbytes


def test_pages_come_at_their_first_use_and_go_with_the_buffer():
    """In a process of its own, where nobody else takes or returns pages meanwhile."""
    subprocess.run([sys.executable, "-c", PAGES], check=True)


def test_what_cannot_be_had_is_said_with_the_number():
    with pytest.raises(MemoryPlanError, match=f"{1 << 60} bytes"):
        HostMemory().allocate(1 << 60)
