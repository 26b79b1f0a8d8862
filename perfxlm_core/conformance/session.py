"""A worker process seen from the kit: a plugin that dies or hangs is a failed case, no more."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from perfxlm_core.conformance.case import Failure, Variant
from perfxlm_core.conformance.channel import Channel, GarbledError
from perfxlm_core.conformance.check import Outcome
from perfxlm_core.conformance.perf import Limits, Timing
from perfxlm_core.conformance.target import Facts
from perfxlm_core.errors import DeviceError, PluginError

TIMEOUT = 60.0
"""Seconds that loading a plugin, or a case, may take."""
HASTY = 10.0
"""Seconds that a case of a kernel may take that has hung before, or more if others needed more."""
SLOWER = 3
"""How many times as long as its slowest case so far a kernel may take that has hung before: a new
process may have to compile it again."""
TIMING = 10
"""How many times as long as a case the timing of a kernel may take: it is many launches."""
GRACE = 2.0
"""Seconds that a process has to end by itself."""
SLICE = 0.5
"""Seconds between looks at a silent worker."""
LOG_BYTES = 1 << 20
"""What a plugin prints is cut at this length, to its last TAIL bytes."""
TAIL = 1 << 14
LINES = 15
"""Lines of what the plugin printed that are shown with a failure."""
WIDTH = 300
"""Characters of each that are shown."""


class WorkerFailure(Failure):
    """A failure whose cause is known from what the plugin printed last.

    Attributes:
        output: its last lines.
    """

    def __init__(self, check: str, message: str, output: str) -> None:
        super().__init__(check, message)
        self.output = output


class Session:
    """A plugin in a process of its own, started again whenever it dies. Used as a context.

    Raises:
        PluginError: on entering: the plugin is broken, or ends or blocks the process that loads it.
        DeviceError: on entering: it finds no device, or is not installed.
    """

    def __init__(self, plugin: str, timeout: float = TIMEOUT) -> None:
        self.plugin = plugin
        self.timeout = timeout
        self._facts: Facts | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._log = _Log()
        self._hung: set[int] = set()
        self._slowest: dict[int, float] = {}

    def __enter__(self) -> Session:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def facts(self) -> Facts:
        """What the plugin is; the worker has to have been started."""
        assert self._facts is not None, "enter the session first"
        return self._facts

    def run(self, kernel: int, case: Any) -> Outcome:  # noqa: ANN401 - a case of any kind
        """Try a kernel, by its index, with a case, in the worker.

        Raises:
            Failure: the kernel does something wrong; "crash" and "hang" among the checks.
        """
        return Outcome(**self._answer(kernel, ("run", kernel, case))["outcome"])

    def time(self, kernel: int, variant: Variant) -> tuple[Limits, list[Timing]]:
        """Time a kernel, by its index, in the worker; see `perf.measure`.

        Raises:
            Failure: the kernel raises, crashes or hangs.
        """
        answer = self._answer(kernel, ("time", kernel, variant), patience=TIMING * self.timeout)
        return Limits(**answer["limits"]), [Timing(**t) for t in answer["timings"]]

    def _answer(
        self, kernel: int, question: tuple[Any, ...], patience: float | None = None
    ) -> dict[str, Any]:
        """The answer to a question about a kernel; raises Failure if there is none."""
        if self._process is None:
            self._restart()
        began = time.monotonic()
        try:
            answer = self._ask(question, patience or self._patience(kernel))
        except _Lost as lost:
            if lost.check == "hang":
                self._hung.add(kernel)
            edge = lost.check == "crash" and getattr(question[2], "layout", None) == "edge"
            note = "; in the layout 'edge' it must not touch the pages beside operands"
            raise WorkerFailure(lost.check, lost.what + note * edge, lost.output) from None
        if "failure" in answer:
            check, message = answer["failure"]
            raise WorkerFailure(check, message, _last_lines(answer.get("output", "")))
        if question[0] == "run":
            taken = time.monotonic() - began
            self._slowest[kernel] = max(taken, self._slowest.get(kernel, 0.0))
        return answer

    def _patience(self, kernel: int) -> float:
        """Seconds that a case of this kernel may take."""
        if kernel not in self._hung:
            return self.timeout
        return min(self.timeout, max(HASTY, SLOWER * self._slowest.get(kernel, 0.0)))

    def close(self) -> None:
        """End the worker and all that it started."""
        self._end()
        self._log.close()

    def _restart(self) -> None:
        try:
            self._start()
        except (PluginError, DeviceError) as error:
            message = f"the plugin cannot be loaded again after it died: {error}"
            raise WorkerFailure("crash", message, "") from None

    def _start(self) -> None:
        self._log.clear()
        ours, theirs = socket.socketpair()
        with theirs:
            self._channel = Channel(ours)
            number = theirs.fileno()
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-u", "-m", "perfxlm_core.conformance.worker",
                 str(number), str(os.getpid())],
                stdin=subprocess.DEVNULL, stdout=self._log.file, stderr=self._log.file,
                pass_fds=(number,), start_new_session=True,
            )  # fmt: skip
        try:
            answer = self._ask(("load", self.plugin, sys.path), self.timeout)
        except _Lost as lost:
            shown = f"; it last printed:\n{lost.output}" if lost.output else ""
            raise PluginError(
                f"plugin {self.plugin} cannot be loaded: {lost.what}{shown}"
            ) from None
        if "error" in answer:
            self._end()
            kind = DeviceError if answer["error"] == "device" else PluginError
            raise kind(answer["message"])
        self._facts = Facts.from_plain(answer["facts"])

    def _ask(self, question: tuple[Any, ...], patience: float) -> dict[str, Any]:
        """An answer; whatever else happens, the worker is ended."""
        assert self._channel is not None
        before = self._log.size()
        try:
            with contextlib.suppress(ConnectionError):  # it died meanwhile: the answer says so
                self._channel.send(pickle.dumps(question))
            answer = json.loads(self._wait(patience))
            if not isinstance(answer, dict):
                raise GarbledError
            return answer
        except TimeoutError:
            self._abort()
            what = f"it did not end within {patience:g} s"
            raise _Lost("hang", what, self._log.tail(before)) from None
        except EOFError:
            what = _end_of(self._end(GRACE))
            raise _Lost("crash", what, self._log.tail(before)) from None
        except (GarbledError, ValueError):
            self._end()
            what = "it wrote into a file descriptor that is not its own, the kit's connection"
            raise _Lost("crash", what, self._log.tail(before)) from None
        except BaseException:  # Ctrl-C, or a time limit of the test runner
            self._end()
            raise

    def _wait(self, patience: float) -> bytes:
        assert self._channel is not None
        assert self._process is not None
        end = time.monotonic() + patience
        while True:
            left = end - time.monotonic()
            try:
                return self._channel.receive(max(0.001, min(SLICE, left)))
            except TimeoutError:
                if self._process.poll() is not None:  # a child of the plugin holds the socket
                    raise EOFError from None
                if left <= SLICE:
                    raise
            finally:
                self._log.trim()

    def _abort(self) -> None:
        """End a worker that hangs; first it prints where it is."""
        assert self._process is not None
        self._process.send_signal(signal.SIGABRT)
        self._end(GRACE)

    def _end(self, grace: float = 0) -> int | None:
        """End the worker and its group; gives its exit status, None if it had to be killed."""
        process, self._process = self._process, None
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()
        if process is None:
            return None
        status: int | None = None
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = process.wait(grace)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return status


class _Lost(Exception):
    """The worker is gone."""

    def __init__(self, check: str, what: str, output: str) -> None:
        super().__init__(what)
        self.check, self.what, self.output = check, what, output


def _end_of(status: int | None) -> str:
    if status is None:
        return "it closed the kit's connection"
    if status < 0:
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = f"signal {-status}"
        return f"its process died of {name}"
    return f"it ended its process with exit code {status}"


def _last_lines(text: str) -> str:
    return "\n".join(line[:WIDTH] for line in text.splitlines()[-LINES:])


class _Log:
    """What the plugin prints: a file without a name, cut when it grows."""

    def __init__(self) -> None:
        self.file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed by Session
        # Whoever writes, writes at the end, which moves when the file is cut.
        flags = fcntl.fcntl(self.file.fileno(), fcntl.F_GETFL)
        fcntl.fcntl(self.file.fileno(), fcntl.F_SETFL, flags | os.O_APPEND)

    def size(self) -> int:
        return os.fstat(self.file.fileno()).st_size

    def trim(self) -> None:
        if self.size() > LOG_BYTES:
            kept = self._last(0)
            self.clear()
            self.file.write(kept)

    def clear(self) -> None:
        self.file.truncate(0)

    def close(self) -> None:
        self.file.close()

    def tail(self, start: int) -> str:
        """The lines that matter, of what was printed behind `start`."""
        text = self._last(start if start < self.size() else 0).decode(errors="replace")
        lines = ["".join(c for c in n if c.isprintable()).rstrip() for n in text.splitlines()]
        lines = [one for one in lines if one]
        fatal = next((i for i, one in enumerate(lines) if one.startswith("Fatal Python")), None)
        if fatal is not None:
            lines = lines[max(0, fatal - LINES) :]
            own = os.path.join(*Path(__file__).parent.parts[-2:], "")
            lines = [n for n in lines if own not in n and not n.startswith("Extension modules")]
            fatal = next(i for i, n in enumerate(lines) if n.startswith("Fatal Python"))
            return "\n".join(n[:WIDTH] for n in lines[max(0, fatal - 5) : fatal + LINES])
        return _last_lines("\n".join(lines))

    def _last(self, start: int) -> bytes:
        size = self.size()
        start = max(start, size - TAIL)
        return os.pread(self.file.fileno(), size - start, start)
