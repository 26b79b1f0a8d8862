"""`AsyncLLM`: many requests at once on an engine process, for one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from itertools import count
from typing import TYPE_CHECKING, Any, Protocol

import zmq

from perfxlm_core.engine.admission import Admission
from perfxlm_core.engine.outputs import RequestStateStats
from perfxlm_core.errors import ArgumentError, EngineDeadError, PerfxlmError
from perfxlm_core.serve.connection import EngineConnection, refusal
from perfxlm_core.serve.messages import (
    Abort,
    Add,
    Answer,
    Call,
    Delta,
    Failed,
    Refused,
    Step,
    event_decoder,
    packed,
)
from perfxlm_core.serve.stream import RequestStream

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence

    from perfxlm_core.engine.config import EngineConfig
    from perfxlm_core.engine.outputs import RequestOutput
    from perfxlm_core.engine.params import SamplingParams
    from perfxlm_core.engine.prompts import Prompt, PromptType
    from perfxlm_core.engine.runner import Tokenizer
    from perfxlm_core.serve.messages import Event, StepStats

RESTARTS = 5
"""Restarts in a row after which a dying engine is given up, when no request ended in between."""

log = logging.getLogger(__name__)


class Observer(Protocol):
    """Is told what happens, for statistics; called in the event loop, so it must be quick."""

    def stepped(self, stats: StepStats, num_tokens: int) -> None:
        """A step has generated `num_tokens`."""

    def received(self, stream: RequestStream, delta: Delta, now: float) -> None:
        """A request got a delta; it may be the first or the last."""

    def ended(self, stream: RequestStream, reason: str) -> None:
        """A request has ended: "stop", "length", "abort" or "error"."""

    def died(self) -> None:
        """The engine process has ended, and all its requests with it."""


class AsyncLLM:
    """A model in a process of its own, for one event loop at a time.

    Tokenizing and checking happen here; the engine process gets token ids and gives back what each
    step added. Cancelling `generate`, or closing it, ends the request and frees its memory.

    Args:
        config: Of the engine.
        observer: Told what happens.
        restart: Start another engine process when one dies; requests in flight are lost either way.

    Raises:
        PerfxlmError: what the engine process raised while it loaded the model.
        EngineDeadError: it ended without a word.
    """

    def __init__(
        self, config: EngineConfig, *, observer: Observer | None = None, restart: bool = False
    ) -> None:
        from perfxlm_core.checkpoints import resolve_model

        path = str(resolve_model(config.model, config.revision))
        self.config = dataclasses.replace(config, model=path, revision=None)
        self.observer = observer
        self.restart = restart
        self.dead_error: EngineDeadError | None = None
        self.on_death: Callable[[], None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._numbers = count()
        self._streams: dict[int, RequestStream] = {}
        self._names: dict[str, int] = {}
        self._tickets: dict[int, asyncio.Future[Any]] = {}
        self._last_stats: StepStats | None = None
        self._deaths = 0
        self._stopped = False
        self._connection = EngineConnection(self.config)
        try:
            tokenizer = self._opened_tokenizer()
        except BaseException:
            self._connection.close()
            raise
        self._connection.await_ready()
        self.admission = self._admission(tokenizer)
        self._connection.watch(self._died_soon(self._connection))

    @classmethod
    def from_engine_args(
        cls,
        engine_args: Any,  # noqa: ANN401 - EngineArgs of either module path, or a configuration
        start_engine_loop: bool = True,
        usage_context: object = None,
        stat_loggers: object = None,
    ) -> AsyncLLM:
        """An engine as `EngineArgs` describe it; the other arguments change nothing."""
        made = getattr(engine_args, "create_engine_config", None)
        return cls(engine_args if made is None else made())

    from_vllm_config = from_engine_args

    def _opened_tokenizer(self) -> Tokenizer | None:
        from perfxlm_core.checkpoints import open_checkpoint, open_tokenizer, resolve_model

        if self.config.skip_tokenizer_init:
            return None
        if self.config.tokenizer is None:
            return open_checkpoint(self.config.model).tokenizer()
        return open_tokenizer(resolve_model(self.config.tokenizer))

    def _admission(self, tokenizer: Tokenizer | None) -> Admission:
        facts = self._connection.facts
        return Admission(
            tokenizer,
            vocab_size=facts.vocab_size,
            max_model_len=facts.max_model_len,
            max_logprobs=self.config.max_logprobs,
            generation_config=facts.generation_config,
            seed=self.config.seed,
        )

    # -- requests -----------------------------------------------------------------------------

    async def generate(
        self,
        prompt: PromptType | Prompt,
        sampling_params: SamplingParams | None,
        request_id: str,
        *,
        prompt_text: str | None = None,
        lora_request: None = None,
        tokenization_kwargs: Mapping[str, Any] | None = None,
        trace_headers: Mapping[str, str] | None = None,
        priority: int = 0,
        data_parallel_rank: int | None = None,
        session_id: str | None = None,
        client: str = "",
    ) -> AsyncGenerator[RequestOutput]:
        """Complete a prompt; each output is what `sampling_params.output_kind` says.

        Outputs that come faster than they are read are merged. Cancelling or closing the generator
        ends the request.

        Args:
            prompt_text: Shown as the outputs' prompt, where the prompt is token ids.
            trace_headers: Not used; nor are `data_parallel_rank` and `session_id`.
            client: Whose the request is; those of different clients are started in turns.

        Raises:
            ArgumentError: an argument cannot be used, or the id belongs to a running request.
            RequestError: the prompt does not fit.
            EngineDeadError: the engine process is gone.
        """
        stream = await self.add_request(
            request_id,
            prompt,
            sampling_params,
            lora_request=lora_request,
            tokenization_kwargs=tokenization_kwargs,
            priority=priority,
            prompt_text=prompt_text,
            client=client,
        )
        try:
            while not stream.finished:
                yield await stream.get()
        finally:
            self.forget(stream)

    async def add_request(
        self,
        request_id: str,
        prompt: PromptType | Prompt,
        params: SamplingParams | None = None,
        arrival_time: float | None = None,
        lora_request: None = None,
        tokenization_kwargs: Mapping[str, Any] | None = None,
        trace_headers: Mapping[str, str] | None = None,
        priority: int = 0,
        *,
        prompt_text: str | None = None,
        client: str = "",
    ) -> RequestStream:
        """Queue a request; the caller reads its stream with `get`, and calls `forget` at the end.

        Raises:
            ArgumentError, RequestError, EngineDeadError: see `generate`.
        """
        if lora_request is not None:
            raise ArgumentError("lora_request is not supported; leave it out")
        self._check_alive()
        if request_id in self._names:
            raise ArgumentError(f"request_id {request_id!r} belongs to a request that still runs")
        parsed, ids, params = self.admission.checked(prompt, params, tokenization_kwargs)
        self.listen()
        arrival = time.time() if arrival_time is None else arrival_time
        stats = RequestStateStats(arrival_time=arrival, queued_ts=time.monotonic())
        number = next(self._numbers)
        text = parsed.text if prompt_text is None else prompt_text
        stream = RequestStream(number, request_id, text, ids, params, stats)
        salt = parsed.cache_salt
        self._send(Add(number, ids, packed(params), priority, salt, arrival, client))
        self._streams[number], self._names[request_id] = stream, number
        return stream

    def _send(self, command: Add) -> None:
        try:
            self._connection.send(command)
        except (TypeError, ValueError, OverflowError) as error:
            raise ArgumentError(f"a parameter of the request is no plain value: {error}") from error

    def forget(self, stream: RequestStream) -> None:
        """The reader is done; if the request is not, it ends now."""
        if self._streams.pop(stream.number, None) is None:
            return
        del self._names[stream.request_id]
        if not stream.ended:
            self._connection.send(Abort([stream.number]))
            self._note_end(stream, "abort")

    async def abort(self, request_id: str | Iterable[str], internal: bool = False) -> None:
        """End requests; their generators give a last output with finish_reason "abort"."""
        for name in [request_id] if isinstance(request_id, str) else request_id:
            number = self._names.get(name)
            stream = None if number is None else self._streams[number]
            if stream is None or stream.ended:
                continue
            self._connection.send(Abort([stream.number]))
            for index in sorted(stream.running):
                last = len(stream.running) == 1
                self._deliver(stream, Delta(stream.number, index, "", [], "abort", finished=last))

    async def encode(self, *args: object, **kwargs: object) -> AsyncGenerator[Any]:
        """Refused: the model generates.

        Raises:
            ArgumentError: always.
        """
        raise ArgumentError("encode needs a pooling model; this one generates text")
        yield  # type: ignore[unreachable]  # makes it a generator, as callers expect

    # -- events -------------------------------------------------------------------------------

    def listen(self) -> None:
        """Read the engine's events in the running loop, from now on; `generate` does so too."""
        loop = asyncio.get_running_loop()
        if self._loop is loop:
            return
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._connection.events.fileno())
        self._loop = loop
        self._read(self._connection)

    def _read(self, connection: EngineConnection) -> None:
        """Take a connection's events when they come.

        Its descriptor tells of changes only, so what is there already is taken first.
        """
        assert self._loop is not None
        self._loop.add_reader(connection.events.fileno(), self._receive)
        self._loop.call_soon(self._receive)

    def _receive(self) -> None:
        """Take everything that has come."""
        socket = self._connection.events
        with contextlib.suppress(zmq.Again):
            while True:
                self._take(event_decoder.decode(socket.recv(zmq.NOBLOCK)))

    def _take(self, event: Event) -> None:
        if isinstance(event, Step):
            self._take_step(event)
        elif isinstance(event, Refused):
            self._refuse(event)
        elif isinstance(event, Answer):
            ticket = self._tickets.pop(event.number)
            if not ticket.done():  # nobody waits any more
                ticket.set_result(event.value)
        elif isinstance(event, Failed):
            self._connection.failure = event

    def _refuse(self, event: Refused) -> None:
        stream, ticket = self._streams.get(event.number), self._tickets.pop(event.number, None)
        if stream is not None:
            stream.fail(refusal(event))
            self._note_end(stream, "error")
        if ticket is not None and not ticket.done():
            ticket.set_exception(refusal(event))

    def _take_step(self, step: Step) -> None:
        self._last_stats = step.stats
        for delta in step.deltas:
            stream = self._streams.get(delta.number)
            if stream is not None:
                self._deliver(stream, delta)
        if self.observer is not None:
            self.observer.stepped(step.stats, sum(len(d.token_ids) for d in step.deltas))

    def _deliver(self, stream: RequestStream, delta: Delta) -> None:
        stream.put(delta)
        if self.observer is not None:
            self.observer.received(stream, delta, time.monotonic())
        if delta.finished:
            self._deaths = 0
            self._note_end(stream, delta.finish_reason or "error")

    def _note_end(self, stream: RequestStream, reason: str) -> None:
        stream.ended = True
        if self.observer is not None:
            self.observer.ended(stream, reason)

    # -- life and death -----------------------------------------------------------------------

    def _died_soon(self, connection: EngineConnection) -> Callable[[], None]:
        """What the watching thread calls."""

        def ended() -> None:
            if self._loop is None or self._loop.is_closed():
                self._died(connection)
            else:
                with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                    self._loop.call_soon_threadsafe(self._died, connection)

        return ended

    def _died(self, connection: EngineConnection) -> None:
        if self._stopped or connection is not self._connection:
            return
        self._receive()
        self.dead_error = EngineDeadError(connection.epitaph())
        log.error("%s; %d requests are lost", self.dead_error, len(self._streams))
        if self._loop is not None:
            self._loop.remove_reader(connection.events.fileno())
        for stream in self._streams.values():
            stream.fail(self.dead_error)
            if not stream.ended:
                self._note_end(stream, "error")
        for ticket in self._tickets.values():
            if not ticket.done():
                ticket.set_exception(self.dead_error)
        self._tickets.clear()
        if self.observer is not None:
            self.observer.died()
        self._deaths += 1
        if self.restart and self._loop is not None and self._deaths <= RESTARTS:
            self._loop.run_in_executor(None, self._start_again)
        elif self.on_death is not None:
            self.on_death()

    def _start_again(self) -> None:
        """Runs in a thread: put another process in the dead one's place."""
        assert self._loop is not None
        self._connection.close()
        log.info("starting another engine process")
        try:
            connection = EngineConnection(self.config)
            connection.await_ready()
        except PerfxlmError as error:
            failure = EngineDeadError(f"the engine did not start again: {error}")
            self._loop.call_soon_threadsafe(self._give_up, failure)
        else:
            self._loop.call_soon_threadsafe(self._go_on, connection)

    def _go_on(self, connection: EngineConnection) -> None:
        assert self._loop is not None
        if self._stopped:
            connection.close()
            return
        self._connection, self.dead_error = connection, None
        self._read(connection)
        connection.watch(self._died_soon(connection))
        log.info("the engine runs again")

    def _give_up(self, failure: EngineDeadError) -> None:
        log.error("%s", failure)
        self.dead_error = failure
        if self.on_death is not None:
            self.on_death()

    def _check_alive(self) -> None:
        if self._stopped:
            raise EngineDeadError("this engine was shut down")
        if self.dead_error is not None:
            raise EngineDeadError(str(self.dead_error))

    def shutdown(self, timeout: float | None = None) -> None:
        """End the engine process; requests that still run fail."""
        if self._stopped:
            return
        self._stopped = True
        if self._loop is not None and not self._loop.is_closed() and not self.errored:
            self._loop.remove_reader(self._connection.events.fileno())
        for stream in self._streams.values():
            stream.fail(EngineDeadError("this engine was shut down"))
        self._connection.close()

    # -- state --------------------------------------------------------------------------------

    @property
    def errored(self) -> bool:
        """Whether the engine process is gone."""
        return self.dead_error is not None

    @property
    def is_running(self) -> bool:
        """Whether requests can be served."""
        return not (self._stopped or self.errored)

    @property
    def is_stopped(self) -> bool:
        """The opposite of `is_running`."""
        return not self.is_running

    @property
    def max_model_len(self) -> int:
        """Tokens that a prompt and its output can have together."""
        return self._connection.facts.max_model_len

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The model's, or None if it was loaded without."""
        return self.admission.tokenizer

    @property
    def stats(self) -> StepStats | None:
        """The engine's state after its last step; None before the first."""
        return self._last_stats

    @property
    def engine_pid(self) -> int:
        """The engine process."""
        return self._connection.process.pid

    @property
    def facts(self) -> Any:  # noqa: ANN401 - `Facts`
        """What the engine process said of the model."""
        return self._connection.facts

    def get_tokenizer(self) -> Tokenizer:
        """The model's tokenizer.

        Raises:
            ArgumentError: the model was loaded without one.
        """
        if self.admission.tokenizer is None:
            raise ArgumentError("this engine has no tokenizer: skip_tokenizer_init=True was given")
        return self.admission.tokenizer

    def get_num_unfinished_requests(self) -> int:
        """Requests whose generators are still read."""
        return len(self._streams)

    async def get_model_config(self) -> EngineConfig:
        """The engine's settings."""
        return self.config

    async def get_supported_tasks(self) -> tuple[str, ...]:
        """What the model can do."""
        return ("generate",)

    async def check_health(self) -> None:
        """Return if the engine process lives.

        Raises:
            EngineDeadError: it does not.
        """
        self._check_alive()

    async def do_log_stats(self) -> None:
        """Write a line to the log."""
        log.info("%d requests; %s", len(self._streams), self._last_stats)

    async def is_tracing_enabled(self) -> bool:
        """False: there is no tracing."""
        return False

    # -- calls to the engine ------------------------------------------------------------------

    async def sleep(self, level: int = 1, mode: str = "abort") -> None:
        """Give the model's memory back, weights and KV cache, until `wake_up`.

        Requests that come meanwhile wait. The rest is as `LLMEngine.sleep` does it; with the mode
        "wait" other requests are finished first, and nothing else is done until then.

        Raises:
            ArgumentError: the level or the mode is none.
        """
        await self._called("sleep", level, mode)

    async def wake_up(self, tags: Sequence[str] | None = None) -> bool:
        """Load again what `sleep` gave back; everything at once, whatever the tags."""
        return bool(await self._called("wake_up", None if tags is None else list(tags)))

    async def is_sleeping(self) -> bool:
        """Whether `sleep` was called, and `wake_up` not since."""
        return bool(await self._called("is_sleeping"))

    async def start_profile(self, profile_prefix: str | None = None) -> None:
        """Time every operator of every step, until `stop_profile`.

        Raises:
            ArgumentError: it runs already.
        """
        await self._called("start_profile", profile_prefix)

    async def stop_profile(self) -> None:
        """Write the trace, for Perfetto, into `profiler_config`'s `torch_profiler_dir`.

        Raises:
            ArgumentError: nothing was started.
        """
        await self._called("stop_profile")

    async def reset_mm_cache(self) -> None:
        """Nothing: prompts are text, and no media are cached."""

    async def reset_prefix_cache(
        self, reset_running_requests: bool = False, reset_connector: bool = False
    ) -> bool:
        """Forget every cached prefix; False, with nothing done, while requests hold blocks.

        Args:
            reset_running_requests: Compute running requests again, so that nothing hinders it.
            reset_connector: There is no connector.
        """
        return bool(await self._called("reset_prefix_cache", reset_running_requests))

    async def free_blocks(self) -> tuple[int, int]:
        """KV blocks that no request holds, and all there are."""
        free, total = await self._called("free_blocks")
        return free, total

    async def _called(self, name: str, *arguments: Any) -> Any:  # noqa: ANN401 - plain values
        self._check_alive()
        self.listen()
        number = next(self._numbers)
        answer = self._tickets[number] = asyncio.get_running_loop().create_future()
        self._connection.send(Call(number, name, list(arguments)))
        return await answer
