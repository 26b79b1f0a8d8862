"""The engine process: `python -m perfxlm_core.serve.engine_process FOLDER`.

It reads its settings from standard input and loads the model. From then on it takes commands
between steps, and sends what a step gave in one message. Sending never waits: ZeroMQ's own thread
does it. The process ends when told to, when its standard input closes (the front process is gone,
however it went), and when the engine raises something that no request is to blame for.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any

import msgspec
import zmq

from perfxlm_core.engine.config import EngineConfig
from perfxlm_core.engine.llm_engine import check_sleep
from perfxlm_core.errors import PerfxlmError
from perfxlm_core.serve.messages import (
    Abort,
    Add,
    Answer,
    Call,
    Delta,
    Entries,
    Facts,
    Failed,
    Ready,
    Refused,
    Step,
    StepStats,
    Stop,
    command_decoder,
    encoder,
    unpacked,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from perfxlm_core.engine.llm_engine import LLMEngine
    from perfxlm_core.engine.outputs import RequestOutput, TokenLogprobs
    from perfxlm_core.serve.messages import Command, Event

COMMANDS_A_STEP = 64
"""Commands taken between two steps at most, so that a flood of requests cannot starve running
ones."""

log = logging.getLogger("perfxlm.engine")


def main(folder: str) -> int:
    """Serve one front process; the exit code.

    Args:
        folder: Where the sockets are made.
    """
    settings = _read_settings()
    _answer_to_the_front_only()
    context = zmq.Context()
    taken, sent = context.socket(zmq.PULL), context.socket(zmq.PUSH)
    for socket, name in ((taken, "commands"), (sent, "events")):
        socket.set_hwm(0)
        socket.bind(f"ipc://{folder}/{name}")
    try:
        EngineLoop(_loaded(EngineConfig(**settings), sent), taken, sent).run()
        return 0
    except Exception as error:
        log.error(
            "the engine process ends: %s", error, exc_info=not isinstance(error, PerfxlmError)
        )
        _send(sent, Failed(type(error).__name__, str(error), traceback.format_exc()))
        return 1
    finally:
        taken.close(linger=0)
        sent.close(linger=1000)
        context.term()


def _read_settings() -> dict[str, Any]:
    """Arguments of `EngineConfig`: their length in 8 bytes, then MessagePack."""
    size = int.from_bytes(sys.stdin.buffer.read(8), "little")
    settings: dict[str, Any] = msgspec.msgpack.decode(sys.stdin.buffer.read(size))
    return settings


def _answer_to_the_front_only() -> None:
    """Leave Ctrl-C and SIGTERM to the front process, which drains; end when it is gone."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_end_with_stdin, daemon=True).start()


def _end_with_stdin() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)


def _loaded(config: EngineConfig, socket: zmq.Socket[bytes]) -> LLMEngine:
    from perfxlm_core.engine.build import build_engine

    began = time.monotonic()
    engine = build_engine(config)
    runner = engine.runner
    facts = Facts(
        runner.vocab_size,
        engine.max_model_len,
        runner.block_size,
        runner.num_blocks,
        runner.max_num_seqs,
        runner.max_num_batched_tokens,
        dict(engine.admission.generation_config),
        time.monotonic() - began,
    )
    _send(socket, Ready(facts))
    return engine


def _send(socket: zmq.Socket[bytes], event: Event) -> None:
    socket.send(encoder.encode(event))


def _refused(number: int, error: Exception) -> Refused:
    parameter = getattr(error, "parameter", None)
    return Refused(number, type(error).__name__, str(error), parameter)


class EngineLoop:
    """Commands, a step, its outputs, again."""

    def __init__(
        self, engine: LLMEngine, commands: zmq.Socket[bytes], events: zmq.Socket[bytes]
    ) -> None:
        self.engine = engine
        self._calls = EngineCalls(engine, self._report)
        self.commands = commands
        self.events = events
        self._begun: set[str] = set()
        self._computed = 0

    def run(self) -> None:
        """Until `Stop`."""
        while self._take_commands():
            if self._has_work():
                self._report(self.engine.step())

    def _has_work(self) -> bool:
        return self.engine.has_unfinished_requests() and not self.engine.is_sleeping()

    # -- commands -----------------------------------------------------------------------------

    def _take_commands(self) -> bool:
        """Take what has come, waiting for something if there is no step to make; False to stop."""
        for _ in range(COMMANDS_A_STEP):
            flags = zmq.NOBLOCK if self._has_work() else 0
            try:
                command = command_decoder.decode(self.commands.recv(flags))
            except zmq.Again:
                return True
            if isinstance(command, Stop):
                return False
            self._take(command)
        return True

    def _take(self, command: Command) -> None:
        if isinstance(command, Add):
            self._add(command)
        elif isinstance(command, Abort):
            self._abort(command)
        elif isinstance(command, Call):
            self._call(command)

    def _add(self, command: Add) -> None:
        from perfxlm_core.engine.prompts import Prompt

        prompt = Prompt(None, command.token_ids, command.cache_salt)
        try:
            submission = self.engine.admission.submission(
                str(command.number),
                prompt,
                unpacked(command.params),
                priority=command.priority,
                arrival_time=command.arrival_time,
                client=command.client,
            )
        except (PerfxlmError, TypeError) as error:
            _send(self.events, _refused(command.number, error))
        else:
            self.engine.submit(submission)

    def _abort(self, command: Abort) -> None:
        ids = [str(number) for number in command.numbers]
        self.engine.abort_request(ids)
        self._begun.difference_update(ids)
        if not self._has_work():
            self._report([])  # no step will say that all is idle

    def _call(self, command: Call) -> None:
        try:
            value = getattr(self._calls, command.name)(*command.arguments)
        except PerfxlmError as error:
            _send(self.events, _refused(command.number, error))
        else:
            _send(self.events, Answer(command.number, value))

    # -- outputs ------------------------------------------------------------------------------

    def _report(self, outputs: Iterable[RequestOutput]) -> None:
        deltas = [delta for output in outputs for delta in self._deltas(output)]
        _send(self.events, Step(deltas, self._stats()))

    def _stats(self) -> StepStats:
        stats, times = self.engine.stats(), self.engine.times
        tokens = stats.num_computed_tokens - self._computed
        self._computed = stats.num_computed_tokens
        return StepStats(
            stats.num_running,
            stats.num_waiting,
            stats.kv_cache_usage,
            tokens,
            times.schedule,
            times.run,
            times.sample,
            self.engine.is_sleeping(),
        )

    def _deltas(self, output: RequestOutput) -> list[Delta]:
        name = output.request_id
        first = name not in self._begun
        self._begun.add(name)
        if output.finished:
            self._begun.discard(name)
        deltas = [
            Delta(
                int(name),
                done.index,
                done.text,
                list(done.token_ids),
                done.finish_reason,
                done.stop_reason,
                False,
                None if done.logprobs is None else [_entries(e) for e in done.logprobs],
                done.cumulative_logprob,
            )
            for done in output.outputs
        ]
        if first or output.finished:
            deltas[-1] = _completed(deltas[-1], output, first)
        return deltas


class EngineCalls:
    """What the front may call by name; the results are plain values.

    Args:
        report: Tells the front of outputs.
    """

    def __init__(
        self, engine: LLMEngine, report: Callable[[Iterable[RequestOutput]], None]
    ) -> None:
        self.engine = engine
        self._report = report

    def reset_prefix_cache(self, reset_running_requests: bool) -> bool:
        """Forget every cached prefix."""
        if reset_running_requests:
            self.engine.scheduler.preempt_all()
        return self.engine.reset_prefix_cache()

    def free_blocks(self) -> list[int]:
        """KV blocks that no request holds, and all there are."""
        pool = self.engine.blocks.pool
        return [pool.num_free, pool.num_blocks]

    def sleep(self, level: int, mode: str) -> None:
        """Give the memory back."""
        check_sleep(level, mode)
        while mode == "wait" and self.engine.has_unfinished_requests():
            self._report(self.engine.step())
        self._report(self.engine.sleep(level, mode))

    def wake_up(self, tags: list[str] | None) -> bool:
        """Load again."""
        self.engine.wake_up(tags)
        self._report([])
        return True

    def is_sleeping(self) -> bool:
        """Whether the engine sleeps."""
        return self.engine.is_sleeping()

    def start_profile(self, prefix: str | None) -> None:
        """Time every operator from now on."""
        self.engine.start_profile(prefix)

    def stop_profile(self) -> str:
        """Write the trace; where."""
        return str(self.engine.stop_profile())


def _entries(entry: TokenLogprobs) -> Entries:
    return [(i, e.logprob, e.rank, e.decoded_token) for i, e in entry.items()]


def _completed(delta: Delta, output: RequestOutput, first: bool) -> Delta:
    """A request's first or last delta, with what is said once."""
    prompt = None
    if first and output.prompt_logprobs is not None:
        prompt = [None if e is None else _entries(e) for e in output.prompt_logprobs]
    times, preemptions = None, 0
    if output.finished and output.metrics is not None:
        seen = output.metrics
        times = (seen.scheduled_ts, seen.first_token_ts, seen.last_token_ts)
        preemptions = seen.num_preemptions
    return msgspec.structs.replace(
        delta,
        finished=output.finished,
        num_cached_tokens=output.num_cached_tokens if first else None,
        prompt_logprobs=prompt,
        error=output.error,
        engine_failed=output.engine_failed,
        times=times,
        num_preemptions=preemptions,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
