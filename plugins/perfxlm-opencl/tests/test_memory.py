"""The pool, copies, and what happens when memory will not do."""

import gc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfxlm_core.plugin import MemoryPlanError
from perfxlm_opencl.memory import SLAB, Pool


def _bytes(device, buffer):
    out = np.empty(buffer.nbytes, np.uint8)
    device.copy_out(out, device.view(buffer, 0, (buffer.nbytes,), "uint8"))
    return out


def test_memory_is_zeroed_and_aligned(device):
    buffers = [device.allocate(n) for n in (1, 100, 5000, SLAB // 4, SLAB + 1, 0)]
    for buffer in buffers:
        assert not _bytes(device, buffer).any()
        assert buffer.handle.offset % device.facts.alignment == 0


@given(sizes=st.lists(st.integers(1, 3000), min_size=1, max_size=20), seed=st.integers(0, 99))
def test_pieces_do_not_overlap(device, sizes, seed):
    rng = np.random.default_rng(seed)
    buffers = [device.allocate(n) for n in sizes]
    contents = [rng.integers(0, 256, n, np.uint8) for n in sizes]
    for buffer, content in zip(buffers, contents, strict=True):
        device.copy_in(device.view(buffer, 0, content.shape, "uint8"), content)
    for buffer, content in zip(buffers, contents, strict=True):
        np.testing.assert_array_equal(_bytes(device, buffer), content)


def test_a_small_copy_does_not_depend_on_its_source_afterwards(device):
    buffer, source = device.allocate(1000), np.full(1000, 7, np.uint8)
    view = device.view(buffer, 0, (1000,), "uint8")
    device.copy_in(view, source)
    source[:] = 9
    assert (_bytes(device, buffer) == 7).all()


def test_copies_of_strided_arrays_and_parts(device):
    buffer = device.allocate(4096)
    source = np.arange(128, dtype=np.float32).reshape(8, 16).T
    device.copy_in(device.view(buffer, 256, (16, 8), "float32"), source)
    out = np.zeros((8, 16), np.float32).T
    device.copy_out(out, device.view(buffer, 256, (16, 8), "float32"))
    np.testing.assert_array_equal(out, source)


def test_what_is_dropped_is_given_back(device):
    gc.collect()
    before = device.pool.used
    kept = device.allocate(3 << 20)
    assert device.pool.used >= before + (3 << 20)
    del kept
    gc.collect()
    assert device.pool.used == before


@pytest.mark.parametrize(
    ("limit", "value", "size"), [("max_allocation", 1 << 20, 2 << 20), ("memory", 1 << 20, 2 << 20)]
)
def test_a_refusal_names_device_and_numbers(device, limit, value, size):
    pool = Pool("opencl", replace(device.facts, **{limit: value}), device.queue)
    with pytest.raises(MemoryPlanError) as refused:
        pool.take(size)
    for part in ("opencl", device.facts.device, str(size), str(value), "lower"):
        assert part in str(refused.value)
    assert pool.used == 0


def test_constants_are_taken_once_and_in_place(device):
    data = np.arange(4096, dtype=np.uint8)
    region = device.pool.wrap(data)
    assert region is not None  # both runtimes are processors
    view = device.view(device.allocate(4096), 0, (4096,), "uint8")
    assert region.keep is data
    out = np.empty(4096, np.uint8)
    device.copy_out(out, replace(view, memory=region.memory, offset=0))
    np.testing.assert_array_equal(out, data)
