"""Launches, alone and in programs."""

import numpy as np
import pyopencl as cl
import pytest

from perfxlm_core import ops
from perfxlm_core.plugin import Attributes, DeviceError, Dim, Operand, Site
from perfxlm_opencl.kernels import kernels
from perfxlm_opencl.launch import by_size, chain

TOKENS = Dim.symbol("tokens")
WIDTH = 10


def place(device, name, array, shape):
    buffer = device.allocate(array.nbytes)
    device.copy_in(device.view(buffer, 0, array.shape, array.dtype.name), array)
    return Operand(name, shape, array.dtype.name, buffer, 0)


def scaled(device, x, factor, out):
    function = next(k.function for k in kernels if k.op is ops.scale)
    attrs = Attributes(factor=factor, offset=0.0)
    return function(Site(ops.scale, attrs, {"x": x, "out": out}, None, device, device.allocate))


@pytest.fixture
def nodes(device):
    """Two nodes, y = 2 x and z = 3 y, and a reader of z."""
    rows = np.arange(8 * WIDTH, dtype=np.float32).reshape(8, WIDTH)
    x, y, z = (
        place(device, n, rows * s, (TOKENS, WIDTH)) for n, s in zip("xyz", (1, 0, 0), strict=False)
    )

    def read():
        out = np.empty_like(rows)
        device.copy_out(out, device.view(z.buffer, 0, rows.shape, "float32"))
        return out

    return scaled(device, x, 2.0, y), scaled(device, y, 3.0, z), read, rows


def test_sizes_change_between_steps(device, nodes):
    first, second, read, rows = nodes
    program = device.program([first, second], ("tokens",))
    for tokens in (3, 3, 0, 5, 1, 8):
        program({"tokens": tokens})
    np.testing.assert_array_equal(read(), 6 * rows)


def test_nothing_beyond_the_sizes_is_written(device, nodes):
    first, second, read, rows = nodes
    device.program([first, second], ("tokens",))({"tokens": 2})
    np.testing.assert_array_equal(read()[:2], 6 * rows[:2])
    assert not read()[2:].any()


def test_a_launch_may_be_part_of_two_programs(device, nodes):
    first, second, read, rows = nodes
    one = device.program([first, second], ("tokens",))
    two = device.program([first, second], ("tokens",))
    one({"tokens": 1})
    two({"tokens": 8})
    one({"tokens": 1})
    first({"tokens": 8})
    np.testing.assert_array_equal(read(), 6 * rows)


def test_other_launches_run_in_their_place(device, nodes):
    first, second, read, _ = nodes
    seen = []

    def other(sizes):
        device.synchronize()
        seen.append((sizes["tokens"], read().any()))

    device.program([first, other, second, other], ("tokens",))({"tokens": 4})
    assert seen == [(4, False), (4, True)]


def test_chains_and_choices(device, nodes):
    first, second, read, rows = nodes
    small, large = chain(first, second), first
    node = by_size(TOKENS, 3, second, second)
    device.program([small, large, node], ("tokens",))({"tokens": 8})
    np.testing.assert_array_equal(read(), 6 * rows)
    runs = [part.global_size({"tokens": n}) is not None for n in (3, 4) for part in node.parts]
    assert runs == [True, False, False, True]


def test_a_failure_names_device_kernel_and_sizes(device, nodes, monkeypatch):
    def fail(*args):
        raise cl.RuntimeError("clEnqueueNDRangeKernel failed: OUT_OF_RESOURCES")

    monkeypatch.setattr(cl, "enqueue_nd_range_kernel", fail)
    program = device.program([nodes[0]], ("tokens",))
    with pytest.raises(DeviceError) as failed:
        program({"tokens": 3})
    for part in (device.name, device.facts.device, "scale", "'tokens': 3", "OUT_OF_RESOURCES"):
        assert part in str(failed.value)
