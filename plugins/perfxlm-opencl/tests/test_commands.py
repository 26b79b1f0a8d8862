"""Recorded steps: what they compute, when they are made and given back, what happens without."""

import gc
import logging
import subprocess
import sys
import weakref
from types import SimpleNamespace

import numpy as np
import pyopencl as cl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfxlm_core import ops
from perfxlm_core.plugin import Attributes, DeviceError, Dim, Operand, Site
from perfxlm_opencl import commands as extension
from perfxlm_opencl.commands import RECORD, Commands, Recording, offered
from perfxlm_opencl.device import OpenClDevice
from perfxlm_opencl.discovery import find_devices
from perfxlm_opencl.kernels import kernels
from perfxlm_opencl.recorded import KEPT, TRIALS, Recorded, Trial
from perfxlm_opencl.sweep import Sweep

TOKENS = Dim.symbol("tokens")
ROWS, WIDTH = 24, 10


@pytest.fixture
def recorder(open_device, monkeypatch):
    """A device of its own that records whatever repeats itself."""
    monkeypatch.setenv(RECORD, "always")
    return open_device("intel")


class Nodes:
    """y = 2 x and z = 3 y, over rows of which a step computes the first ones."""

    def __init__(self, device):
        self.device = device
        self.x, self.y, self.z = (self._place(name) for name in "xyz")
        self.launches = [self._scaled(self.x, 2.0, self.y), self._scaled(self.y, 3.0, self.z)]
        self.fill(np.zeros((ROWS, WIDTH), np.float32))

    def program(self):
        return self.device.program(self.launches, ("tokens",))

    def fill(self, x):
        self._send(self.x, x)
        for one in (self.y, self.z):
            self._send(one, np.full((ROWS, WIDTH), np.nan, np.float32))

    def result(self):
        out = np.empty((ROWS, WIDTH), np.float32)
        self.device.copy_out(out, self.device.view(self.z.buffer, 0, out.shape, "float32"))
        return out

    def _send(self, operand, values):
        self.device.copy_in(self.device.view(operand.buffer, 0, values.shape, "float32"), values)

    def _place(self, name):
        return Operand(name, (TOKENS, WIDTH), "float32", self.device.allocate(4 * ROWS * WIDTH), 0)

    def _scaled(self, x, factor, out):
        function = next(k.function for k in kernels if k.op is ops.scale)
        attrs = Attributes(factor=factor, offset=0.0)
        given = {"x": x, "out": out}
        return function(Site(ops.scale, attrs, given, None, self.device, self.device.allocate))


def live(program):
    return [one for one in program.recordings.values() if one is not None]


def test_intels_runtime_has_the_extension_and_pocl_has_not(recorder, open_device, monkeypatch):
    assert offered(recorder.device) >= (1, 0, 0)
    assert recorder.commands is not None
    monkeypatch.setenv(RECORD, "")
    assert open_device("intel").commands is None  # it loses memory
    assert offered(open_device("pocl").device) is None
    assert open_device("pocl").commands is None


@pytest.mark.parametrize("version", [(0, 9, 0), (1, 0, 0)])
@given(
    steps=st.lists(st.integers(0, ROWS), min_size=1, max_size=40),
    seed=st.integers(0, 2**32 - 1),
)
def test_replays_compute_what_the_sweep_computes(open_device, version, steps, seed):
    """Sizes in any order: a recording keeps its own, whatever the kernels are set to since.

    Drivers of versions before 1.0.0 may not, and get kernels that are never set again.
    """
    device = open_device("intel")
    commands = Commands.of(device.device, device.queue)
    commands.version = min(version, commands.version)
    nodes = Nodes(device)
    plain = Sweep(device, nodes.launches, ("tokens",))
    program = Recorded(Sweep(device, nodes.launches, ("tokens",)), commands, always=True)
    rng = np.random.default_rng(seed)
    for tokens in steps:
        x = rng.standard_normal((ROWS, WIDTH)).astype(np.float32)
        found = []
        for run in (plain, program):
            nodes.fill(x)
            run({"tokens": tokens})
            found.append(nodes.result())
        np.testing.assert_array_equal(found[1], found[0])
        assert np.isnan(found[1][tokens:]).all()
        np.testing.assert_array_equal(found[1][:tokens], 6 * x[:tokens])
    repeated = {n for n in steps if n and steps.count(n) > 1}
    assert len(live(program)) <= len(repeated)
    if len(set(steps)) <= KEPT:
        assert len(live(program)) == len(repeated)
    kernels = {id(entry[0]) for one in live(program) for entry in one.entries}
    apart = 1 if commands.keeps_arguments else len(live(program))
    assert len(kernels) == 2 * min(apart, len(live(program)))


def test_steps_follow_one_another_without_a_wait(recorder):
    """Each step doubles the step's rows in place of the next one's input."""
    nodes = Nodes(recorder)
    back = nodes._scaled(nodes.z, 1.0, nodes.x)
    program = recorder.program([*nodes.launches, back], ("tokens",))
    x = np.ones((ROWS, WIDTH), np.float32)
    nodes.fill(x)
    for _ in range(12):
        program({"tokens": ROWS})
    np.testing.assert_array_equal(nodes.result(), x * np.float32(6**12))
    assert len(live(program)) == 1


def test_recordings_are_few_and_given_back(recorder, monkeypatch):
    open_handles, made = [], 0
    create, release = Commands.create, Commands.release

    def counted(self):
        nonlocal made
        made += 1
        open_handles.append(create(self))
        return open_handles[-1]

    def given_back(self, handle):
        open_handles.remove(handle)
        release(self, handle)

    monkeypatch.setattr(Commands, "create", counted)
    monkeypatch.setattr(Commands, "release", given_back)
    nodes = Nodes(recorder)
    program = nodes.program()
    for tokens in range(1, ROWS + 1):
        program({"tokens": tokens})
        assert made == tokens - 1
        program({"tokens": tokens})
        assert made == tokens
    assert len(program.recordings) == KEPT
    assert [one._handle for one in live(program)] == open_handles
    assert [key for (key,) in program.recordings] == list(range(ROWS - KEPT + 1, ROWS + 1))
    program({"tokens": ROWS - KEPT + 1})
    program({"tokens": 1})
    assert [key for (key,) in program.recordings][-2:] == [ROWS - KEPT + 1, 1]
    watched = [weakref.ref(one) for one in live(program)]
    del program
    gc.collect()
    assert not any(one() for one in watched)
    assert not open_handles
    recorder.synchronize()


def test_sizes_that_never_come_again_are_not_recorded(recorder, monkeypatch):
    monkeypatch.setattr(Commands, "create", lambda self: pytest.fail("recorded"))
    program = Nodes(recorder).program()
    for tokens in range(ROWS):
        program({"tokens": tokens})


def test_a_recording_that_still_runs_may_go(recorder):
    """The queue is held while the recording is given back."""
    nodes = Nodes(recorder)
    sweep = Sweep(recorder, nodes.launches, ("tokens",))
    x = np.ones((ROWS, WIDTH), np.float32)
    nodes.fill(x)
    recorder.synchronize()
    gate = cl.UserEvent(recorder.context)
    cl.enqueue_marker(recorder.queue, wait_for=[gate])
    recording = Recording(recorder.commands, sweep.resized({"tokens": ROWS}), sweep.entries)
    assert recording.replay()
    del recording
    gc.collect()
    gate.set_status(cl.command_execution_status.COMPLETE)
    np.testing.assert_array_equal(nodes.result(), 6 * x)


@pytest.mark.parametrize("name", [n for n in extension._SIGNATURES if "Release" not in n])
def test_a_driver_that_refuses_gets_launches_one_by_one(recorder, monkeypatch, caplog, name):
    """Each function in turn fails; one warning, however many programs there are."""
    commands = recorder.commands

    def refuse(*arguments):
        if name == "clCreateCommandBufferKHR":
            arguments[3]._obj.value = -5
            return None
        return -5

    monkeypatch.setitem(commands._call, name, refuse)
    monkeypatch.setattr(commands, "_enqueue", commands._call["clEnqueueCommandBufferKHR"])
    x = np.ones((ROWS, WIDTH), np.float32)
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            nodes = Nodes(recorder)
            nodes.fill(x)
            program = nodes.program()
            for _ in range(4):
                program({"tokens": ROWS})
            np.testing.assert_array_equal(nodes.result(), 6 * x)
            assert not live(program)
    (warning,) = [r for r in caplog.records if r.levelno >= logging.WARNING]
    for part in (recorder.label, name, "OUT_OF_RESOURCES", "one by one"):
        assert part in warning.getMessage()


def test_the_drivers_own_refusal_to_record(recorder, caplog):
    """A group that no device runs, in a step that ran before: then launching fails as ever."""
    nodes = Nodes(recorder)
    program = nodes.program()
    program({"tokens": 2})
    launch = program.entries[1].launch
    object.__setattr__(launch, "local", (1 << 20, *launch.local[1:]))
    program.sweep._last = None
    with pytest.raises(DeviceError, match="INVALID_WORK_GROUP_SIZE") as failed:
        program({"tokens": 2})
    assert "'tokens': 2" in str(failed.value)
    assert "1048576" in str(failed.value)
    assert "does not record" in caplog.text


def test_a_failed_replay_names_device_kernels_and_sizes(recorder, monkeypatch):
    nodes = Nodes(recorder)
    program = nodes.program()
    for _ in range(2):
        program({"tokens": 3})
    (recording,) = live(program)
    monkeypatch.setattr(recorder.commands, "_enqueue", lambda *_: -6)
    with pytest.raises(DeviceError) as failed:
        program({"tokens": 3})
    for part in (recorder.label, "2 recorded kernels", "(scale to scale)", "'tokens': 3",
                 "clEnqueueCommandBufferKHR", "OUT_OF_HOST_MEMORY", "load the model"):  # fmt: skip
        assert part in str(failed.value)
    monkeypatch.undo()
    monkeypatch.setattr(recording, "_handle", None)
    with pytest.raises(DeviceError, match="clEnqueueCommandBufferKHR failed: error -1138"):
        program({"tokens": 3})


def test_a_driver_of_an_older_version_that_wants_to_wait(recorder, monkeypatch):
    """Before 0.9.8 a recording that runs may not be enqueued again: the step is launched."""
    nodes = Nodes(recorder)
    program = nodes.program()
    for _ in range(2):
        program({"tokens": ROWS})
    commands = recorder.commands
    monkeypatch.setattr(commands, "_enqueue", lambda *_: -59)
    monkeypatch.setattr(commands, "version", (0, 9, 4))
    monkeypatch.setattr(commands, "_flags", 0)
    x = np.ones((ROWS, WIDTH), np.float32)
    nodes.fill(x)
    program({"tokens": ROWS})
    np.testing.assert_array_equal(nodes.result(), 6 * x)
    monkeypatch.setattr(commands, "version", (1, 0, 0))
    with pytest.raises(DeviceError, match="INVALID_OPERATION"):
        program({"tokens": ROWS})


def described(names, *versions):
    given = {"extensions": " ".join(names)}
    if versions:
        known = zip(names, versions, strict=True)
        given["extensions_with_version"] = [SimpleNamespace(name=n, version=v) for n, v in known]
    return SimpleNamespace(**given)


def test_versions():
    name = extension.EXTENSION
    assert offered(described(["cl_khr_fp16"])) is None
    assert offered(described([f"{name}_mutable_dispatch"])) is None
    assert offered(described([name])) == (0, 9, 0)
    assert offered(described([name], 9 << 12 | 4)) == (0, 9, 4)
    assert offered(described([name], 1 << 22)) == (1, 0, 0)


def test_what_is_not_known_is_not_used(recorder, monkeypatch):
    device, queue = recorder.device, recorder.queue
    for version in ((0, 8, 0), (2, 0, 0)):
        monkeypatch.setattr(extension, "offered", lambda _, v=version: v)
        assert Commands.of(device, queue) is None
    monkeypatch.setattr(extension, "offered", lambda _: (0, 9, 5))
    assert Commands.of(device, queue)._flags == extension._SIMULTANEOUS_USE
    ask = extension._bits
    wanted = int(cl.command_queue_properties.OUT_OF_ORDER_EXEC_MODE_ENABLE)
    monkeypatch.setattr(
        extension, "_bits", lambda d, n: wanted if n == extension._REQUIRED_QUEUE else ask(d, n)
    )
    assert Commands.of(device, queue) is None
    monkeypatch.setattr(extension, "_bits", ask)
    monkeypatch.setitem(extension._SIGNATURES, "clNoSuchFunctionKHR", (None,))
    assert Commands.of(device, queue) is None


def test_the_quicker_way_is_kept():
    for replayed, wanted in ((15, True), (16, False), (30, False)):
        trial, turns = Trial(), []
        while trial.verdict is None:
            turns.append(trial.turn)
            trial.add(trial.turn, replayed if trial.turn else 20)
        assert turns == [False, True] * TRIALS
        assert trial.verdict is trial.turn is wanted


def test_a_trial_ends_and_its_loser_is_given_up(recorder):
    """Under the driver at hand either may win; results are right meanwhile and afterwards."""
    nodes = Nodes(recorder)
    program = Recorded(Sweep(recorder, nodes.launches, ("tokens",)), recorder.commands)
    x = np.ones((ROWS, WIDTH), np.float32)
    for _ in range(2 * TRIALS + 1):
        assert program.trial.verdict is None
        nodes.fill(x)
        program({"tokens": ROWS})
        np.testing.assert_array_equal(nodes.result(), 6 * x)
    assert len(live(program)) == program.trial.verdict
    nodes.fill(x)
    program({"tokens": ROWS})
    np.testing.assert_array_equal(nodes.result(), 6 * x)


def test_where_it_loses_no_memory_there_is_a_trial(open_device, monkeypatch):
    monkeypatch.setenv(RECORD, "")
    monkeypatch.setattr("perfxlm_opencl.device.loses_memory", lambda facts: False)
    program = Nodes(open_device("intel")).program()
    assert isinstance(program, Recorded)
    assert program.trial.verdict is None


def test_the_environment_decides(open_device, monkeypatch):
    monkeypatch.setenv(RECORD, "never")
    device = open_device("intel")
    assert device.commands is None
    assert isinstance(Nodes(device).program(), Sweep)
    monkeypatch.setenv(RECORD, " Always ")
    program = Nodes(open_device("intel")).program()
    assert program.trial.verdict is True
    monkeypatch.setenv(RECORD, "1")
    with pytest.raises(DeviceError, match=f"{RECORD}='1': want always"):
        OpenClDevice(find_devices("intel")[0])


def test_a_single_launch_is_not_recorded(recorder):
    assert isinstance(recorder.program(Nodes(recorder).launches[:1], ("tokens",)), Sweep)


LEFT_AT_EXIT = """
import numpy as np
from test_commands import Nodes, ROWS, live
from perfxlm_opencl.device import OpenClDevice
from perfxlm_opencl.discovery import find_devices

nodes = Nodes(OpenClDevice(find_devices("intel")[0]))
program = nodes.program()
for _ in range(3):
    program({"tokens": ROWS})
print(len(live(program)))
"""


def test_an_interpreter_that_ends_gives_recordings_back(monkeypatch):
    """While they run."""
    monkeypatch.setenv(RECORD, "always")
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-W", "error", "-c", LEFT_AT_EXIT],
        cwd=__file__.rpartition("/")[0], capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "1", "")
