"""`start_profile` and `stop_profile`: an engine's steps as a trace for Perfetto."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perfxlm_core.errors import ArgumentError

if TYPE_CHECKING:
    from perfxlm_core.engine.runner import Runner
    from perfxlm_core.graph.profile import Recorder


class Profiling:
    """Records what the runner runs between `start` and `stop`.

    Args:
        config: May have `torch_profiler_dir`.
    """

    def __init__(self, runner: Runner, config: Mapping[str, Any] | None = None) -> None:
        from perfxlm_core.graph.runner import ModelRunner

        if not isinstance(runner, ModelRunner):
            raise ArgumentError(f"{type(runner).__name__} cannot be profiled")
        self._runner = runner
        self._folder = _folder(config)
        self._recorder: Recorder | None = None
        self._prefix = ""

    def start(self, prefix: str | None = None) -> None:
        """Time every launch from now on; steps get slower by that.

        Raises:
            ArgumentError: it has been started already.
        """
        from perfxlm_core.graph.profile import Recorder

        if self._recorder is not None:
            raise ArgumentError("the profiler runs already; call stop_profile first")
        self._prefix = f"{prefix}-" if prefix else ""
        self._recorder = recorder = Recorder(self._runner)
        self._runner.watch(recorder.watch)

    def stop(self) -> Path:
        """Write the trace; where.

        Raises:
            ArgumentError: it has not been started.
        """
        from perfxlm_core.graph.profile import trace_events

        if self._recorder is None:
            raise ArgumentError("the profiler does not run; call start_profile first")
        recorder, self._recorder = self._recorder, None
        self._runner.watch(lambda _: self._runner.bound.program)
        runs = recorder.runs
        events = trace_events(recorder, runs, runs[0].start) if runs else []
        self._folder.mkdir(parents=True, exist_ok=True)
        name = f"{self._prefix}perfxlm-{os.getpid()}-{time.time_ns()}.trace.json"
        path = self._folder / name
        path.write_text(json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}))
        return path


def _folder(config: Mapping[str, Any] | None) -> Path:
    given = (config or {}).get("torch_profiler_dir")
    return Path(given or os.environ.get("VLLM_TORCH_PROFILER_DIR") or ".")
