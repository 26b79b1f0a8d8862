"""One request in the front process: what has come and was not yet given out."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import deque
from typing import TYPE_CHECKING

from perfxlm_core.engine.outputs import CompletionOutput, Logprob
from perfxlm_core.engine.params import RequestOutputKind
from perfxlm_core.engine.record import RequestRecord

if TYPE_CHECKING:
    from perfxlm_core.engine.outputs import RequestOutput, RequestStateStats, TokenLogprobs
    from perfxlm_core.engine.params import SamplingParams
    from perfxlm_core.serve.messages import Delta, Entries


class RequestStream(RequestRecord):
    """Deltas in, `RequestOutput`s out.

    What comes faster than it is read is merged, so a slow reader costs one output, not a queue.

    Args:
        number: What the engine process knows the request by.

    Attributes:
        finished: Whether the last output was given out.
        ended: Whether the last delta has come; the engine is done with the request.
        running: Completions that have not ended.
        num_tokens: Tokens that have come.
    """

    def __init__(
        self,
        number: int,
        request_id: str,
        prompt: str | None,
        prompt_token_ids: list[int],
        params: SamplingParams,
        stats: RequestStateStats,
    ) -> None:
        super().__init__(request_id, prompt, prompt_token_ids, params, stats)
        self.number = number
        self.finished = self.ended = False
        self.running = set(range(params.n))
        self.num_tokens = 0
        self.failure: BaseException | None = None
        self._whole: dict[int, CompletionOutput] = {}
        self._arrived: deque[Delta] = deque()
        self._waiter: asyncio.Future[None] | None = None

    # -- what the client does -----------------------------------------------------------------

    def put(self, delta: Delta) -> None:
        """Take what a step gave."""
        self._arrived.append(delta)
        self.num_tokens += len(delta.token_ids)
        if delta.finish_reason is not None:
            self.running.discard(delta.index)
        if delta.finished or self.params.output_kind is not RequestOutputKind.FINAL_ONLY:
            self._wake()

    def fail(self, failure: BaseException) -> None:
        """End with an exception, which the reader gets at once."""
        self.failure = failure
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # -- what the reader does -----------------------------------------------------------------

    async def get(self) -> RequestOutput:
        """Wait for news, and give all of it.

        Raises:
            EngineDeadError: the engine process is gone.
            RequestError: the engine refused the request.
        """
        final_only = self.params.output_kind is RequestOutputKind.FINAL_ONLY
        while self.failure is None and (
            not self._arrived or (final_only and not self._arrived[-1].finished)
        ):
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self.failure is not None:
            raise self.failure
        return self._output()

    def _output(self) -> RequestOutput:
        delta = self.params.output_kind is RequestOutputKind.DELTA
        news: dict[int, CompletionOutput] = {} if delta else self._whole
        while self._arrived:
            self._merge(news, self._arrived.popleft())
        outputs = [news[i] if delta else _copy(news[i]) for i in sorted(news)]
        return self.output_of(outputs, finished=self.finished)

    def _merge(self, news: dict[int, CompletionOutput], delta: Delta) -> None:
        known = news.get(delta.index)
        logprobs = None
        if delta.logprobs is not None:
            logprobs = self.new_logprobs()
            logprobs.extend(map(_logprobs, delta.logprobs))
        if known is None:
            news[delta.index] = CompletionOutput(
                index=delta.index,
                text=delta.text,
                token_ids=delta.token_ids,
                cumulative_logprob=delta.cumulative_logprob,
                logprobs=logprobs,
                finish_reason=delta.finish_reason,
                stop_reason=delta.stop_reason,
            )
        else:
            known.text += delta.text
            known.token_ids = [*known.token_ids, *delta.token_ids]
            known.cumulative_logprob = delta.cumulative_logprob
            known.finish_reason, known.stop_reason = delta.finish_reason, delta.stop_reason
            if logprobs is not None and known.logprobs is not None:
                known.logprobs.extend(logprobs)
        self._note(delta)

    def _note(self, delta: Delta) -> None:
        stats = self.stats
        stats.num_generation_tokens += len(delta.token_ids)
        if delta.error is not None:
            self.error, self.engine_failed = delta.error, delta.engine_failed
        if delta.num_cached_tokens is not None:
            self.num_cached_tokens = delta.num_cached_tokens
        if delta.prompt_logprobs is not None:
            self.prompt_logprobs = self.new_prompt_logprobs()
            self.prompt_logprobs.extend(
                None if e is None else _logprobs(e) for e in delta.prompt_logprobs
            )
        if delta.finished:
            self.finished = True
            stats.num_preemptions = delta.num_preemptions
            if delta.times is not None:
                stats.scheduled_ts, stats.first_token_ts, stats.last_token_ts = delta.times
                stats.first_token_latency = max(0.0, stats.first_token_ts - stats.queued_ts)


def _copy(output: CompletionOutput) -> CompletionOutput:
    """A cumulative output that later news do not change."""
    return dataclasses.replace(
        output,
        token_ids=list(output.token_ids),
        logprobs=None if output.logprobs is None else output.logprobs[:],
    )


def _logprobs(entries: Entries) -> TokenLogprobs:
    return {i: Logprob(logprob, rank, text) for i, logprob, rank, text in entries}
