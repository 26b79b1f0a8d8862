"""A request as its user sees it: one prompt, `n` growing completions, and what is still unsent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from perfxlm_core.engine.outputs import (
    CompletionOutput,
    Logprob,
    RequestOutput,
    RequestStateStats,
    TokenLogprobs,
)
from perfxlm_core.engine.params import RequestOutputKind
from perfxlm_core.engine.record import RequestRecord
from perfxlm_core.engine.request import FinishReason
from perfxlm_core.engine.sampler import raw_logprobs, raw_logprobs_of
from perfxlm_core.errors import DeviceError, LogitsError

if TYPE_CHECKING:
    from perfxlm_core.engine.detokenizer import Detokenizer
    from perfxlm_core.engine.params import SamplingParams
    from perfxlm_core.engine.record import Logprobs
    from perfxlm_core.engine.request import Request
    from perfxlm_core.engine.runner import Tokenizer
    from perfxlm_core.engine.sampler import Floats, RequestSampler
    from perfxlm_core.errors import PerfxlmError


class TokenTexts:
    """The text of single tokens, remembered."""

    def __init__(self, tokenizer: Tokenizer | None) -> None:
        self._tokenizer = tokenizer
        self._texts: dict[int, str] = {}

    def __call__(self, token_id: int) -> str | None:
        """The token's text; None without a tokenizer."""
        if self._tokenizer is None:
            return None
        text = self._texts.get(token_id)
        if text is None:
            text = self._tokenizer.decode([token_id], skip_special_tokens=False)
            self._texts[token_id] = text
        return text


class Completion:
    """One of a submission's outputs: the engine's request, its sampler and its text."""

    def __init__(
        self,
        submission: Submission,
        index: int,
        request: Request,
        sampler: RequestSampler,
        detokenizer: Detokenizer,
    ) -> None:
        self.submission = submission
        self.index = index
        self.request = request
        self.sampler = sampler
        self.detokenizer = detokenizer
        self.token_ids = sampler.output_token_ids
        self.logprobs: Logprobs | None = None
        self.cumulative_logprob: float | None = None
        if submission.params.logprobs is not None:
            self.logprobs = submission.new_logprobs()
            self.cumulative_logprob = 0.0
        self.finish_reason: FinishReason | None = None
        self.stop_reason: int | str | None = None
        self._sent_tokens = self._sent_chars = 0
        self._sent_finish = False

    def add_logprobs(self, row: Floats, token_id: int) -> None:
        """Record the log-probabilities of a generated token, if they were asked for.

        Args:
            row: [vocab] float32 raw logits.
        """
        count = self.submission.params.logprobs
        if count is None or self.logprobs is None or self.cumulative_logprob is None:
            return
        wanted = self.submission.params.logprob_token_ids
        if wanted is None:
            entry = self.submission.token_logprobs(raw_logprobs(row, token_id, count))
        else:
            entry = self.submission.token_logprobs(raw_logprobs_of(row, (token_id, *wanted)))
        self.logprobs.append(entry)
        self.cumulative_logprob += entry[token_id].logprob

    def add_token(self, token_id: int, max_model_len: int) -> None:
        """Take the token that was sampled, and finish if it, the text or the length says so."""
        self.request.append(token_id)
        submission, params = self.submission, self.submission.params
        stopped = token_id in submission.stop_ids and len(self.token_ids) > params.min_tokens
        stop_string = None
        if not stopped or params.include_stop_str_in_output:
            stop_string = self.detokenizer.append(token_id)
        if stop_string is not None:
            self.finish(FinishReason.STOP, stop_string)
        elif stopped:
            reason = None if token_id == submission.eos_token_id else token_id
            self.finish(FinishReason.STOP, reason)
        elif len(self.token_ids) == params.max_tokens or self.request.num_tokens >= max_model_len:
            self.finish(FinishReason.LENGTH)

    def finish(self, reason: FinishReason, stop_reason: int | str | None = None) -> None:
        """Nothing more will come."""
        self.finish_reason, self.stop_reason = reason, stop_reason
        if not isinstance(stop_reason, str):
            self.detokenizer.finish()

    @property
    def has_news(self) -> bool:
        """Whether there is anything that `delta` has not given yet."""
        finished = self.finish_reason is not None
        return len(self.token_ids) > self._sent_tokens or finished > self._sent_finish

    def cumulative(self) -> CompletionOutput:
        """Everything so far."""
        logprobs = None if self.logprobs is None else self.logprobs[:]
        return self._output(self._text(), list(self.token_ids), logprobs)

    def delta(self) -> CompletionOutput:
        """What is new since the last call."""
        text, tokens = self._text(), self._sent_tokens
        logprobs = None if self.logprobs is None else self.logprobs[tokens:]
        output = self._output(text[self._sent_chars :], self.token_ids[tokens:], logprobs)
        self._sent_tokens, self._sent_chars = len(self.token_ids), len(text)
        self._sent_finish = self.finish_reason is not None
        return output

    def _text(self) -> str:
        if self.finish_reason is not None:
            return self.detokenizer.text
        return self.detokenizer.text[: self.detokenizer.num_safe]

    def _output(
        self, text: str, token_ids: list[int], logprobs: Logprobs | None
    ) -> CompletionOutput:
        reason = None if self.finish_reason is None else self.finish_reason.value
        return CompletionOutput(
            index=self.index,
            text=text,
            token_ids=token_ids,
            cumulative_logprob=self.cumulative_logprob,
            logprobs=logprobs,
            finish_reason=reason,
            stop_reason=self.stop_reason,
        )


class Submission(RequestRecord):
    """What a user asked for, while the engine works on it.

    Args:
        stop_ids: Tokens that end a completion; `eos_token_id` is the one that needs no reason.
    """

    def __init__(
        self,
        request_id: str,
        prompt: str | None,
        prompt_token_ids: list[int],
        params: SamplingParams,
        *,
        stop_ids: frozenset[int],
        eos_token_id: int | None,
        texts: TokenTexts,
        arrival_time: float,
        queued_ts: float,
    ) -> None:
        stats = RequestStateStats(arrival_time=arrival_time, queued_ts=queued_ts)
        super().__init__(request_id, prompt, prompt_token_ids, params, stats)
        self.stop_ids = stop_ids
        self.eos_token_id = eos_token_id
        self.completions: list[Completion] = []
        if params.prompt_logprobs is not None:
            self.prompt_logprobs = self.new_prompt_logprobs()
            self.prompt_logprobs.append(None)
        self._texts = texts
        self._num_told = 0

    @property
    def finished(self) -> bool:
        """Whether every completion has ended."""
        return all(c.finish_reason is not None for c in self.completions)

    def fail(self, error: PerfxlmError) -> None:
        """Note why the request cannot go on."""
        self.error = str(error)
        self.engine_failed = isinstance(error, DeviceError | LogitsError)

    def token_logprobs(self, found: Iterable[tuple[int, float, int]]) -> TokenLogprobs:
        """Log-probabilities by token id, from (id, logprob, rank)."""
        text = self._texts if self.params.detokenize else lambda _: None
        entry: TokenLogprobs = {}
        for token, logprob, rank in found:
            entry.setdefault(token, Logprob(logprob, rank, text(token)))
        return entry

    def add_prompt_logits(self, logits: Floats, first: int) -> None:
        """Record the prompt's log-probabilities.

        Args:
            logits: [rows, vocab] float32, of the prompt's tokens from place `first` on.
        """
        count = self.params.prompt_logprobs
        if self.prompt_logprobs is None or count is None:
            return
        for row, token_id in zip(logits, self.prompt_token_ids[first + 1 :], strict=False):
            self.prompt_logprobs.append(self.token_logprobs(raw_logprobs(row, token_id, count)))

    def note_token(self, now: float) -> None:
        """Keep the statistics: one more token at this time of the monotonic clock."""
        stats = self.stats
        if stats.num_generation_tokens == 0:
            stats.first_token_ts = now
            stats.first_token_latency = now - stats.queued_ts
        stats.num_generation_tokens += 1
        stats.last_token_ts = now

    def _is_due(self) -> bool:
        """Whether `stream_interval` tokens a completion have come since the last output."""
        interval, count = self.params.stream_interval, self.stats.num_generation_tokens
        if interval is None:
            return True
        due = self._num_told == 0 or count - self._num_told >= interval * len(self.completions)
        if due:
            self._num_told = count
        return due

    def output(self) -> RequestOutput | None:
        """What this step has to tell the user; None if nothing."""
        kind, finished = self.params.output_kind, self.finished
        if not finished and not self._is_due():
            return None
        if kind is RequestOutputKind.DELTA:
            outputs = [c.delta() for c in self.completions if c.has_news]
        elif kind is RequestOutputKind.CUMULATIVE or finished:
            outputs = [c.cumulative() for c in self.completions]
        else:
            return None
        self.stats.num_preemptions = sum(c.request.num_preemptions for c in self.completions)
        self.num_cached_tokens = self.completions[0].request.num_cached_tokens
        return self.output_of(outputs, finished=finished)
