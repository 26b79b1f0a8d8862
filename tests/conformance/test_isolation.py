"""A hostile plugin does not take the kit down; the report says which case died, and how."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from perfxlm_core.conformance import Case, Failure, Session, run_slot, slots
from perfxlm_core.conformance.channel import Channel, GarbledError

from ..cli.command import COMMAND, obey_interrupts
from . import hostile

TIMEOUT = "4"

# kernel -> what its failure says; None if it is right in spite of all
FATES = {
    "add": None,
    "segfault": "crash: its process died of SIGSEGV",
    "endless": "hang: it did not end within 4 s",
    "blocked_with_the_lock": "hang: it did not end within 4 s",
    "leaves": "crash: it ended its process with exit code 3",
    "leaves_in_bind": "crash: it ended its process with exit code 0",
    "exits_in_bind": "smoke: raises SystemExit: no licence",
    "exits": "smoke: raises SystemExit: 7",
    "interrupts": "smoke: raises KeyboardInterrupt:",
    "killed": "crash: its process died of SIGKILL",
    "chatty": None,
    "writes_to_low_descriptors": None,
    "writes_to_all_descriptors": "crash: it wrote into a file descriptor that is not its own",
    "closes_all_descriptors": "crash: ",
    "forks": None,
    "leaves_a_child_and_dies": "crash: it ended its process with exit code 5",
    "mul": None,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    hostile.write(folder)
    return folder


def environment(folder, **more):
    return {**os.environ, **more, "PYTHONPATH": str(folder)}


def conformance(folder, *arguments):
    return subprocess.run(
        [*COMMAND, "conformance", *map(str, arguments)], env=environment(folder),
        capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip


@pytest.fixture(scope="module")
def tried(folder):
    """All kernels of the hostile plugin, by one command: the process and its report."""
    files = [folder / "report.json", folder / "report.html"]
    done = conformance(
        folder, "hostile", "--examples", "4", "--timeout", TIMEOUT,
        "--json", files[0], "--html", files[1],
    )  # fmt: skip
    return done, json.loads(files[0].read_text()), files[1].read_text()


def row_of(report, kernel):
    return next(r for r in report["rows"] if r["kernel"] == f"hostile.{kernel}")


def test_the_command_ends_with_one(tried):
    done, report, _ = tried
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    states = {r["kernel"]: r["status"] for r in report["rows"]}
    ours = {k.removeprefix("hostile."): v for k, v in states.items() if k and "hostile." in k}
    assert ours == {k: "failed" if fate else "passed" for k, fate in FATES.items()}
    assert report["counts"]["reference"] > 5


@pytest.mark.parametrize("kernel", FATES)
def test_each_kernel_is_reported(tried, kernel):
    row, fate = row_of(tried[1], kernel), FATES[kernel]
    if fate is None:
        assert (row["status"], row["passed"]) == ("passed", 4)
        return
    assert row["failure"].startswith(fate)
    assert row["case"].startswith("Case('silu'")
    assert f"kernel='hostile.{kernel}'" in row["snippet"]
    assert row["snippet"].splitlines()[-1] in tried[0].stdout
    assert f"hostile.{kernel}" in tried[2]


@pytest.mark.parametrize("kernel", ["segfault", "endless", "blocked_with_the_lock"])
def test_where_it_died_is_shown(tried, kernel):
    printed = row_of(tried[1], kernel)["output"]
    assert f"in {kernel}" in printed
    assert "perfxlm_hostile_plugin.py" in printed
    assert "conformance/worker.py" not in printed


def test_what_it_printed_is_shown(tried):
    assert "about to read address 0" in row_of(tried[1], "segfault")["output"]


def test_a_crash_is_made_small(folder, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path, str(folder)])
    with Session("hostile_at_times") as session:
        (slot,) = slots(session, "silu")
        row = run_slot(session, slot, 30)
    assert row.failure == "crash: its process died of SIGSEGV"
    assert "in segfault_when_wide" in row.output
    assert row.case.sizes["batch"][-1] < 100
    assert len(row.case.steps) == 1
    assert row.passed > 0
    assert row.seconds < 40


@pytest.mark.parametrize(
    ("name", "said"),
    {
        "exiting": "is broken: SystemExit: no licence",
        "leaving": "cannot be loaded: it ended its process with exit code 4",
        "dying": "cannot be loaded: its process died of SIGSEGV",
        "stuck": "cannot be loaded: it did not end within 4 s",
        "raising": "is broken: ModuleNotFoundError: No module named 'no_such_driver_library'",
        "absent": "plugin absent (perfxlm-absent 1.2.3) has no device on this machine",
        "nobody": "no plugin called 'nobody' is installed (there are: ",
    }.items(),
)
def test_a_plugin_that_cannot_be_loaded_is_an_error(folder, name, said):
    if name == "nobody":  # the others would be loaded to find a device of this name
        folder = folder / "empty"
    done = conformance(folder, name, "--timeout", TIMEOUT)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def children(group):
    """Processes of a session, by its leader."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == group and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def is_gone(pid):
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rsplit(")", 1)[1].split()[0] == "Z"


def soon(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


@pytest.fixture
def hanging(folder):
    """The command while a kernel hangs, and its worker's process."""
    process = subprocess.Popen(
        [*COMMAND, "conformance", "hostile", "--op", "silu"], env=environment(folder),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=obey_interrupts,
    )  # fmt: skip
    with process:
        try:
            assert soon(lambda: children(process.pid))
            time.sleep(1)
            (worker,) = children(process.pid) or [0]
            yield process, worker
        finally:
            process.kill()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_no_worker_outlives_the_command(hanging, number, code):
    process, worker = hanging
    process.send_signal(number)
    _, said = process.communicate(timeout=20)
    assert process.returncode == code
    assert "Traceback" not in said
    assert soon(lambda: is_gone(worker))


def test_the_way_to_the_worker_and_back_is_short():
    case = Case("mul", sizes={"batch": ()}, steps=({"tokens": 1},))
    took = []
    with Session("cpu") as session:
        for _ in range(300):
            began = time.perf_counter()
            with pytest.raises(Failure, match="IndexError"):  # there is no such kernel
                session.run(10**6, case)
            took.append(time.perf_counter() - began)
    assert min(took) < 5e-3, "neither side polls, sleeps or waits for an acknowledgement"


def test_an_interrupted_question_leaves_no_answer_behind(folder, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path, str(folder)])
    case = Case("silu", sizes={"batch": (7,)}, steps=({"tokens": 1},))
    with Session("hostile") as session:
        index = {s.kernel.name: s.kernel.index for s in slots(session, "silu")}
        old = signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        try:
            with pytest.raises(KeyboardInterrupt):
                session.run(index["hostile.endless"], case)
        finally:
            signal.signal(signal.SIGALRM, old)
        assert session.run(index["hostile.chatty"], case).declined is None


@pytest.mark.parametrize("written", [b"hello", b"pXLM\x00\xc1\xff\xff\xff\xff", b"p?"])
def test_what_is_no_message_is_noticed(written):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(written)
        with pytest.raises(GarbledError):
            Channel(ours).receive(1)


def test_messages_come_in_order_and_whole():
    ours, theirs = socket.socketpair()
    sent = [b"", b"a", b"b" * 300_000, b"pXLM" * 3]
    with ours, theirs:
        one = Channel(theirs)
        thread = threading.Thread(target=lambda: [one.send(s) for s in sent])
        thread.start()
        other = Channel(ours)
        assert [other.receive(5) for _ in sent] == sent
        thread.join()
        with pytest.raises(TimeoutError):
            other.receive(0.01)
        theirs.close()
        with pytest.raises(EOFError):
            other.receive(1)
