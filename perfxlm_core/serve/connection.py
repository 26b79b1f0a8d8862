"""The engine process as the front sees it: started, spoken to, watched, ended."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import shutil
import subprocess
import sys
import tempfile
import threading
from typing import TYPE_CHECKING

import msgspec
import zmq

from perfxlm_core import errors
from perfxlm_core.errors import ArgumentError, EngineDeadError, PerfxlmError
from perfxlm_core.serve.messages import Failed, Ready, Stop, encoder, event_decoder

if TYPE_CHECKING:
    from collections.abc import Callable

    from perfxlm_core.engine.config import EngineConfig
    from perfxlm_core.serve.messages import Command, Facts, Refused

POLL_MS = 100
"""How often a starting process is looked at."""
STOP_SECONDS = 5.0
"""How long a process that was told to end may take."""

log = logging.getLogger(__name__)


class EngineConnection:
    """One engine process, its model loaded.

    The process is a new interpreter, not a fork and not `multiprocessing`'s spawn: a program that
    uses it needs no `if __name__ == "__main__"`.

    Args:
        config: Of the engine, which begins to load its model at once.
    """

    facts: Facts

    def __init__(self, config: EngineConfig) -> None:
        self.failure: Failed | None = None
        self._folder = tempfile.mkdtemp(prefix="perfxlm-")
        self._context = zmq.Context()
        try:
            self.commands = self._connected(zmq.PUSH, "commands")
            self.events = self._connected(zmq.PULL, "events")
            self.process = self._started(config)
        except BaseException:
            self.close()
            raise

    # -- start --------------------------------------------------------------------------------

    def _connected(self, kind: int, name: str) -> zmq.Socket[bytes]:
        """A socket of ours; the engine process binds its own, so that we never wait for it."""
        socket: zmq.Socket[bytes] = self._context.socket(kind)
        socket.set_hwm(0)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RECONNECT_IVL, 10)
        socket.connect(f"ipc://{self._folder}/{name}")
        return socket

    def _started(self, config: EngineConfig) -> subprocess.Popen[bytes]:
        try:
            settings = msgspec.msgpack.encode(dataclasses.asdict(config))
        except TypeError as error:
            raise ArgumentError(f"a setting of the engine is no plain value: {error}") from error
        process = subprocess.Popen(
            [sys.executable, "-m", "perfxlm_core.serve.engine_process", self._folder],
            stdin=subprocess.PIPE,
        )
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended; `await_ready` says how
            process.stdin.write(len(settings).to_bytes(8, "little") + settings)
            process.stdin.flush()
        return process

    def await_ready(self) -> None:
        """Wait until the model is loaded.

        Raises:
            PerfxlmError: what the engine raised while loading, of the same class where it is one
                of ours.
            EngineDeadError: the process ended without a word.
        """
        try:
            self.facts = self._awaited()
        except BaseException:
            self.close()
            raise

    def _awaited(self) -> Facts:
        while True:
            ended = self.process.poll() is not None
            if self.events.poll(0 if ended else POLL_MS):
                event = event_decoder.decode(self.events.recv())
                if isinstance(event, Ready):
                    return event.facts
                if isinstance(event, Failed):
                    raise raised(event)
            elif ended:
                raise EngineDeadError(f"while it loaded the model, {self.epitaph()}")

    # -- life ---------------------------------------------------------------------------------

    def send(self, command: Command) -> None:
        """Send a command; never waits."""
        self.commands.send(encoder.encode(command))

    def watch(self, ended: Callable[[], None]) -> None:
        """Call `ended`, in a thread of its own, when the process is gone."""

        def wait() -> None:
            self.process.wait()
            ended()

        threading.Thread(target=wait, daemon=True, name="engine watch").start()

    def epitaph(self) -> str:
        """How the process ended, as the end of a sentence."""
        if self.failure is not None:
            return f"the engine stopped: {self.failure.kind}: {self.failure.text}"
        code = self.process.poll()
        if code is None:
            return "the engine process stopped answering"
        if code < 0:
            hint = "; the system may have run out of memory" if code == -9 else ""
            return f"the engine process was killed by signal {-code}{hint}"
        return f"the engine process ended with exit code {code}; its log has more"

    def close(self) -> None:
        """End the process, whatever it is doing, and remove the socket."""
        process = getattr(self, "process", None)
        if process is not None:
            self.send(Stop())
            _end(process)
        for socket in (getattr(self, "commands", None), getattr(self, "events", None)):
            if socket is not None:
                socket.close(linger=0)
        self._context.term()
        shutil.rmtree(self._folder, ignore_errors=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        log.warning("the engine process did not end within %s s; it is killed", STOP_SECONDS)
        process.kill()
        process.wait()
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()


def raised(event: Failed) -> PerfxlmError:
    """The exception with which a process has ended."""
    error = _exception(event.kind, event.text)
    error.add_note(f"raised in the engine process:\n{event.traceback}")
    return error


def refusal(event: Refused) -> PerfxlmError:
    """The exception with which a request or a call was refused."""
    error = _exception(event.kind, event.text)
    if isinstance(error, errors.ValidationError):
        error.parameter = event.parameter
    return error


def _exception(kind: str, text: str) -> PerfxlmError:
    """An exception of the named class if it is one of ours."""
    found = getattr(errors, kind, None)
    if isinstance(found, type) and issubclass(found, PerfxlmError):
        return found(text)
    return EngineDeadError(f"the engine raised {kind}: {text}")
