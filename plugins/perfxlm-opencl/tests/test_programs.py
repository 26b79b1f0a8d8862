"""Compiling, and what is kept of it on disk."""

import logging
import os
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pyopencl as cl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfxlm_core.plugin import DeviceError
from perfxlm_opencl.binaries import CACHE, Binaries
from perfxlm_opencl.programs import Programs, read_source
from perfxlm_opencl.progress import Progress

DEFINES = {"ACT": "float"}
BUILD = """
from perfxlm_opencl.device import OpenClDevice
from perfxlm_opencl.discovery import find_devices
OpenClDevice(find_devices("intel")[0]).programs.build("elementwise.cl", {"ACT": "float"})
print("built")
"""


@pytest.fixture
def programs(device, tmp_path):
    return fresh(device, tmp_path / "cache")


def fresh(device, folder):
    return Programs(
        device.name, device.device, device.context, device.facts, device.profile, folder
    )


def run_add(device, program):
    n = 100
    a, out = device.allocate(4 * n), device.allocate(4 * n)
    device.copy_in(device.view(a, 0, (n,), "float32"), np.arange(n, dtype=np.float32))
    kernel = cl.Kernel(program, "add")
    given = [
        part for b in (out, a, a) for part in (b.handle.memory, np.uint64(b.handle.offset // 4))
    ]
    for index, value in enumerate([*given, np.int32(n)]):
        kernel.set_arg(index, value)
    cl.enqueue_nd_range_kernel(device.queue, kernel, (128,), (16,))
    got = np.empty(n, np.float32)
    device.copy_out(got, device.view(out, 0, (n,), "float32"))
    np.testing.assert_array_equal(got, 2 * np.arange(n))


def test_a_program_comes_back_from_disk(device, programs, monkeypatch):
    run_add(device, programs.build("elementwise.cl", DEFINES))
    (kept,) = programs.binaries.folder.iterdir()
    again = fresh(device, programs.binaries.folder)
    monkeypatch.setattr(again.binaries, "write", lambda *a: pytest.fail("compiled again"))
    run_add(device, again.build("elementwise.cl", DEFINES))
    assert [kept] == list(programs.binaries.folder.iterdir())


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "foreign"])
def test_a_damaged_program_is_compiled_again(device, programs, damage):
    programs.build("elementwise.cl", DEFINES)
    (kept,) = programs.binaries.folder.iterdir()
    whole = kept.read_bytes()
    if damage == "foreign":  # whole, but no program of this driver
        programs.binaries.write(kept.stem, b"no program")
    else:
        middle = len(whole) // 2
        flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
        kept.write_bytes({"cut": whole[:middle], "flipped": flipped, "empty": b""}[damage])
    run_add(device, fresh(device, programs.binaries.folder).build("elementwise.cl", DEFINES))
    assert Binaries(programs.binaries.folder).read(kept.stem) not in (None, b"no program")


@given(content=st.binary(max_size=200))
def test_whatever_lies_in_the_folder_is_no_program(tmp_path_factory, content):
    binaries = Binaries(tmp_path_factory.mktemp("cache"))
    (binaries.folder / "key.bin").write_bytes(content)
    assert binaries.read("key") is None


def test_writers_do_not_disturb_readers(tmp_path):
    binaries = Binaries(tmp_path)
    values = [bytes([i]) * 100_000 for i in range(4)]
    binaries.write("key", values[0])
    writers = [
        threading.Thread(target=lambda v=v: [binaries.write("key", v) for _ in range(30)])
        for v in values
    ]
    for writer in writers:
        writer.start()
    while any(w.is_alive() for w in writers):
        assert binaries.read("key") in values
    for writer in writers:
        writer.join()
    assert [p.name for p in tmp_path.iterdir()] == ["key.bin"]


def test_a_folder_that_cannot_be_made_is_no_error(device, tmp_path):
    (tmp_path / "file").write_text("")
    run_add(device, fresh(device, tmp_path / "file" / "cache").build("elementwise.cl", DEFINES))


def test_options_are_part_of_the_key(programs):
    programs.build("elementwise.cl", {"ACT": "float"})
    programs.build("elementwise.cl", {"ACT": "half"})
    assert len(list(programs.binaries.folder.iterdir())) == 2


@pytest.mark.parametrize("field", ["driver", "device", "platform"])
def test_another_driver_or_device_has_programs_of_its_own(device, programs, field):
    programs.build("elementwise.cl", DEFINES)
    other = Programs(
        device.name, device.device, device.context,
        replace(device.facts, **{field: "another"}), device.profile, programs.binaries.folder,
    )  # fmt: skip
    run_add(device, other.build("elementwise.cl", DEFINES))
    assert len(list(programs.binaries.folder.iterdir())) == 2


def test_another_source_is_another_program(programs, monkeypatch):
    programs.build("elementwise.cl", DEFINES)
    text = read_source("elementwise.cl")
    monkeypatch.setattr("perfxlm_opencl.programs.read_source", lambda _: text + "\n// newer")
    fresh_one = Programs(
        programs.name, programs.device, programs.context, programs.facts, programs.profile,
        programs.binaries.folder,
    )  # fmt: skip
    fresh_one.build("elementwise.cl", DEFINES)
    assert len(list(programs.binaries.folder.iterdir())) == 2


def test_processes_share_a_folder(tmp_path):
    """Several begin at once, with nothing kept; all of them work."""
    env = {**os.environ, CACHE: str(tmp_path / "cache")}
    started = [
        subprocess.Popen([sys.executable, "-c", BUILD], env=env, stdout=subprocess.PIPE)
        for _ in range(3)
    ]
    assert [p.communicate(timeout=120)[0] for p in started] == [b"built\n"] * 3
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_what_is_compiled_is_shown(device, tmp_path):
    class Seen(Progress):
        count = 0

        def compiling(self):
            self.count += 1

    seen = Seen(device.name)
    for _ in range(2):
        Programs(
            device.name, device.device, device.context, device.facts, device.profile,
            tmp_path / "cache", seen,
        ).build("elementwise.cl", DEFINES)  # fmt: skip
    assert seen.count == 1


def test_bars_appear_on_a_terminal_and_go_away(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("perfxlm_opencl.progress.DELAY", 0.0)
    progress = Progress("opencl")
    progress.compiling()
    progress.uploading(1 << 20)
    progress.done()
    shown = capsys.readouterr().err
    assert "opencl: compiling kernels" in shown
    assert "opencl: copying weights" in shown
    assert not progress._bars


def test_a_refusal_is_told_once_and_gives_way(programs, caplog):
    broken = {"ACT": "no_such_kind"}
    with pytest.raises(DeviceError, match=r"elementwise\.cl"):
        programs.build("elementwise.cl", broken)
    with caplog.at_level(logging.WARNING):
        assert programs.attempt("elementwise.cl", broken) is None
        assert programs.attempt("elementwise.cl", broken) is None
    assert len(caplog.records) == 1
    assert "error" in caplog.text
    assert "generic" in caplog.text


def test_a_group_fits_the_compiled_kernel(device, programs):
    _, items = programs.fitted("rows.cl", "rms_norm", DEFINES, 1 << 20)
    assert 1 <= items <= device.profile.max_items


def test_sources_hold_what_they_include_once():
    text = read_source("linear.cl")
    assert "#include" not in text
    assert text.count("inline float sum16") == 1
