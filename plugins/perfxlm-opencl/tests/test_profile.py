"""Where time goes: what the device measures of itself, and programs that take their own times."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from perfxlm_core import ops
from perfxlm_core.plugin import (
    Attributes,
    DeviceError,
    Dim,
    MemoryPlanError,
    Operand,
    ProfiledProgram,
    Site,
)
from perfxlm_cpu.device import CpuDevice
from perfxlm_opencl import peaks
from perfxlm_opencl.commands import RECORD
from perfxlm_opencl.discovery import PLATFORM
from perfxlm_opencl.kernels import kernels
from perfxlm_opencl.launch import chain
from perfxlm_opencl.recorded import Recorded
from perfxlm_opencl.sweep import Sweep, _spans

COMMAND = "import sys; from perfxlm_core.cli import main; sys.exit(main())"
PRODUCTS = ("linear", "linear_add", "gated_linear", "qkv_rotary_store")
TOKENS = Dim.symbol("tokens")
ROWS, WIDTH = 64, 4096


def test_limits_beside_those_of_the_processors_plugin(device):
    """The same cores, so about the same; a loop that was left out comes out far above."""
    device.limits()  # compiled
    start = time.perf_counter()
    found = device.limits()
    assert time.perf_counter() - start < 5  # some tenths of a second on a quiet machine
    own = CpuDevice().limits()
    assert set(found) == {"read", "float32", "int8"}
    assert own["read"] / 10 < found["read"] < 3 * own["read"]
    assert own["float32"] / 20 < found["float32"] < 3 * own["float32"]
    assert found["float32"] <= found["int8"] < 3 * own["int8"]


@pytest.mark.parametrize("name", ["intel", "generic"])
def test_kernels_for_graphics_processors_measure_too(open_device, monkeypatch, name):
    """Neighbours that read side by side, and narrow vectors: right, though not for these cores."""
    device = open_device("intel", name)
    object.__setattr__(device.facts, "is_cpu", False)
    assert 1e8 < device.limits()["read"] < 1e11


def test_no_memory_to_read_leaves_the_rest(device, monkeypatch):
    asked = []

    def refuse(nbytes):
        asked.append(nbytes)
        raise MemoryPlanError("none left")

    monkeypatch.setattr(device, "allocate", refuse)
    assert set(device.limits()) == {"float32", "int8"}
    assert asked[0] == peaks.MEMORY
    assert peaks.LEAST <= asked[-1] < 2 * peaks.LEAST


def test_a_driver_that_refuses_leaves_the_rest(device, monkeypatch, caplog):
    build = device.programs.build

    def refuse(source, defines, **more):
        if defines["WIDTH"] == 16:
            raise DeviceError("does not compile peaks.cl")
        return build(source, defines, **more)

    monkeypatch.setattr(device.programs, "build", refuse)
    assert set(device.limits()) == {"read", "float32", "int8"}
    assert caplog.text.count("does not compile peaks.cl") == 1


def test_all_of_the_memory_is_read(device):
    """What the readers find is the exclusive or of what lies there."""
    import pyopencl as cl

    rng = np.random.default_rng(0)
    memory = rng.integers(0, 2**32, 1 << 14, dtype=np.uint32)
    whole = np.bitwise_xor.reduce(memory)
    flags = cl.mem_flags.READ_ONLY | cl.mem_flags.COPY_HOST_PTR
    given = cl.Buffer(device.context, flags, hostbuf=memory)
    program = device.programs.build("peaks.cl", {"WIDTH": 1, "DOT": 0})
    for name, items, rounds, group in (("read_side_by_side", 256, 16, 64), ("read_stretches", 16, 256, 1)):  # fmt: skip  # noqa: E501
        out = np.zeros(items, np.uint32)
        results = peaks._results(device, items)
        kernel = cl.Kernel(program, name)
        kernel.set_args(given, np.uint64(0), results, np.uint32(rounds))
        assert peaks._timed(device, kernel, items, group) > 0
        cl.enqueue_copy(device.queue, out, results)
        assert np.bitwise_xor.reduce(out) == whole


class Nodes:
    """y = 2 x, and z = 3 y as a chain of two launches of which only one runs in a step."""

    def __init__(self, device):
        self.device = device
        self.x, self.y, self.z = (
            Operand(n, (TOKENS, WIDTH), "float32", device.allocate(4 * ROWS * WIDTH), 0)
            for n in "xyz"
        )
        rows = np.arange(ROWS * WIDTH, dtype=np.float32).reshape(ROWS, WIDTH)
        device.copy_in(device.view(self.x.buffer, 0, rows.shape, "float32"), rows)
        self.rows = rows
        self.first = self._scaled(self.x, 2.0, self.y)
        self.second = chain(self._scaled(self.y, 3.0, self.z), self._scaled(self.y, 3.0, self.z))

    def result(self):
        out = np.empty_like(self.rows)
        self.device.copy_out(out, self.device.view(self.z.buffer, 0, out.shape, "float32"))
        return out

    def _scaled(self, x, factor, out):
        function = next(k.function for k in kernels if k.op is ops.scale)
        attrs = Attributes(factor=factor, offset=0.0)
        given = {"x": x, "out": out}
        return function(Site(ops.scale, attrs, given, None, self.device, self.device.allocate))


def profiled(program, tokens):
    before = time.perf_counter_ns()
    spans = program.profile({"tokens": tokens})
    after = time.perf_counter_ns()
    times = [t for s in spans for t in (s.arrived, s.start, s.end)]
    assert [before, *times, after] == sorted([before, *times, after])
    assert {s.lane for s in spans} <= {0}
    return spans


def test_a_program_takes_its_own_times(device):
    nodes = Nodes(device)
    program = device.program([nodes.first, nodes.second], ("tokens",))
    assert isinstance(program, ProfiledProgram)
    program({"tokens": 1})
    spans = profiled(program, ROWS)
    assert [s.launch for s in spans] == [0, 1]
    assert all(s.end > s.start for s in spans)
    np.testing.assert_array_equal(nodes.result(), 6 * nodes.rows)
    assert not profiled(program, 0)
    program({"tokens": ROWS})


def test_other_launches_are_timed_in_their_place(device):
    nodes = Nodes(device)
    seen = []
    launches = [nodes.first, lambda sizes: seen.append(dict(sizes)), nodes.second, nodes.first]
    spans = profiled(device.program(launches, ("tokens",)), 3)
    assert [s.launch for s in spans] == [0, 1, 2, 3]
    assert seen == [{"tokens": 3}]
    np.testing.assert_array_equal(nodes.result()[:3], 6 * nodes.rows[:3])
    assert not nodes.result()[3:].any()


def test_profiling_does_not_disturb_recordings(open_device, monkeypatch):
    monkeypatch.setenv(RECORD, "always")
    device = open_device("intel")
    nodes = Nodes(device)
    program = device.program([nodes.first, nodes.second], ("tokens",))
    assert isinstance(program, Recorded)
    for tokens in (5, 5, 5):
        program({"tokens": tokens})
    assert len(profiled(program, ROWS)) == 2
    nodes.device.copy_in(
        device.view(nodes.z.buffer, 0, nodes.rows.shape, "float32"), 0 * nodes.rows
    )
    program({"tokens": 5})
    np.testing.assert_array_equal(nodes.result()[:5], 6 * nodes.rows[:5])
    assert not nodes.result()[5:].any()
    assert len(program.recordings) == 1


def test_a_launch_that_fails_while_it_is_timed(device):
    nodes = Nodes(device)
    sweep = Sweep(device, [nodes.first], ("tokens",))
    launch = sweep.entries[0].launch
    local = launch.local
    object.__setattr__(launch, "local", (1 << 20, *local[1:]))
    with pytest.raises(DeviceError, match=r"scale .* in groups of \(1048576.*'tokens': 2"):
        sweep.profile({"tokens": 2})


def test_the_devices_clock_becomes_the_hosts():
    """Queued, started and ended, on a clock that is 1000 ahead, and on one that says nothing."""
    numbers = [0, 2, 2, 5]
    times = [(1010, 1020, 1030), (1012, 1030, 1040), (1013, 1045, 1050), (1014, 1050, 1060)]
    spans = list(_spans(numbers, times, 10, 70))
    assert [(s.launch, s.arrived, s.start, s.end) for s in spans] == [
        (0, 10, 20, 30), (2, 30, 30, 50), (5, 50, 50, 60),
    ]  # fmt: skip
    unqueued = [(0, start, end) for _, start, end in times]
    assert [s.end for s in _spans(numbers, unqueued, 10, 70)] == [40, 60, 70]
    assert list(_spans([], [], 10, 70)) == []


@pytest.mark.slow
@pytest.mark.parametrize("platform", ["intel", "portable"])
def test_the_command(platform):
    """`perfxlm profile`: times of operators by the device's clock, beside its limits."""
    arguments = ["profile", "--device", "opencl", "--prompt", "9", "--tokens", "4", "--json"]
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *arguments],
        env={**os.environ, PLATFORM: platform}, capture_output=True, text=True, timeout=300,
        check=True,
    )  # fmt: skip
    report = json.loads(done.stdout)
    assert set(report["limits"]) == {"read", "float32", "int8"}
    for phase in report["phases"].values():
        operators = phase["operators"]
        assert {"linear", "gated_linear", "paged_attention"} <= {*operators}
        fractions = [one["roofline"] for one in operators.values() if one["roofline"] is not None]
        assert fractions
        assert all(f > 0 for f in fractions)
        if report["phases"]["decode"] is phase:
            products = sum(operators[name]["operations"] for name in PRODUCTS)
            assert products / 3 == pytest.approx(2 * 134.5e6, rel=0.01)  # SmolLM2-135M
        timed = sum(one["seconds"] for one in operators.values())
        assert 0 < timed < phase["program_seconds"]
