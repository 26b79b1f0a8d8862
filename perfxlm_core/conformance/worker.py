"""The process that loads a plugin and runs cases: `python -m perfxlm_core.conformance.worker`.

It answers one question after the other over a socket, and ends when the socket is closed or its
parent dies. Questions are pickled by the kit; answers are JSON, since a plugin may write anything.
"""

from __future__ import annotations

import dataclasses
import faulthandler
import fcntl
import json
import os
import pickle
import socket
import sys
import traceback
from collections.abc import Callable
from typing import Any

from perfxlm_core.conformance.case import Failure, Variant
from perfxlm_core.conformance.channel import Channel
from perfxlm_core.conformance.perf import Limits, measure, measure_limits
from perfxlm_core.conformance.target import Target
from perfxlm_core.errors import DeviceError, PerfxlmError

HIGH = 200
"""The socket's descriptor is moved here or above, away from those that plugins open and close."""
DIE_WITH_PARENT = 1
"""PR_SET_PDEATHSIG of prctl(2)."""


def main(descriptor: int, parent: int) -> None:
    """Answer until the socket is closed.

    Args:
        descriptor: of the socket.
        parent: process that started this one.
    """
    faulthandler.enable()
    _die_with(parent)
    high = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, HIGH)
    os.close(descriptor)
    channel = Channel(socket.socket(fileno=high))
    own, worker = os.getpid(), _Worker()
    while True:
        try:
            question = channel.receive()
        except EOFError:
            os._exit(0)
        answer = json.dumps(worker.answer(question), default=str).encode()
        if os.getpid() != own:  # a plugin forked, and the child came back here
            os._exit(0)
        channel.send(answer)


class _Worker:
    """What is loaded."""

    def __init__(self) -> None:
        self.target: Target | None = None
        self.limits: Limits | None = None

    def answer(self, question: bytes) -> dict[str, Any]:
        """The answer to a question.

        It is `("load", plugin, sys.path)`, `("run", kernel, case)` or `("time", kernel, variant)`.
        """
        try:
            what, *arguments = pickle.loads(question)
            known: dict[str, Callable[..., dict[str, Any]]] = {
                "load": self._load,
                "run": self._run,
                "time": self._time,
            }
            return known[what](*arguments)
        except Failure as failure:
            text = str(failure).removeprefix(f"{failure.check}: ")
            return {"failure": [failure.check, text]}
        except BaseException as error:  # SystemExit and KeyboardInterrupt are a plugin's bug here
            return {"failure": ["smoke", _line(error)], "output": traceback.format_exc()}

    def _load(self, plugin: str, path: list[str]) -> dict[str, Any]:
        sys.path[:] = path
        try:
            self.target = Target.load(plugin)
            return {"facts": self.target.facts.plain()}
        except PerfxlmError as error:
            kind = "device" if isinstance(error, DeviceError) else "plugin"
            return {"error": kind, "message": str(error)}
        except BaseException as error:
            message = f"plugin {plugin} is broken: {_line(error)}"
            return {"error": "plugin", "message": message, "output": traceback.format_exc()}

    def _run(self, kernel: int, case: Any) -> dict[str, Any]:  # noqa: ANN401
        assert self.target is not None
        outcome = self.target.run(kernel, case, guard=True)
        return {"outcome": {k: _number(v) for k, v in dataclasses.asdict(outcome).items()}}

    def _time(self, kernel: int, variant: Variant) -> dict[str, Any]:
        assert self.target is not None
        device, found = self.target.device, self.target.kernels[kernel]
        self.limits = self.limits or measure_limits(device)
        timings = measure(device, found, variant, self.limits)
        return {
            "timings": [dataclasses.asdict(t) for t in timings],
            "limits": dataclasses.asdict(self.limits),
        }


def _number(value: Any) -> Any:  # noqa: ANN401 - NumPy's numbers become Python's
    return value.item() if hasattr(value, "item") else value


def _line(error: BaseException) -> str:
    return " ".join(f"raises {type(error).__name__}: {error}".split())[:500]


def _die_with(parent: int) -> None:
    """Ask the system to end this process when its parent ends, where it can."""
    if not sys.platform.startswith("linux"):
        return
    import ctypes
    import signal

    ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
