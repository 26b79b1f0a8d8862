"""The engine: requests go in, steps turn them into outputs."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from perfxlm_core.engine.admission import Admission
from perfxlm_core.engine.blocks import KVBlocks
from perfxlm_core.engine.config import EngineConfig
from perfxlm_core.engine.request import FinishReason
from perfxlm_core.engine.runner import fill
from perfxlm_core.engine.sampler import Sampler
from perfxlm_core.engine.scheduler import Scheduler
from perfxlm_core.errors import ArgumentError, DeviceError, PerfxlmError, RequestError

if TYPE_CHECKING:
    from perfxlm_core.engine.completion import Completion, Submission
    from perfxlm_core.engine.outputs import RequestOutput
    from perfxlm_core.engine.params import SamplingParams
    from perfxlm_core.engine.prompts import PromptType
    from perfxlm_core.engine.request import Request
    from perfxlm_core.engine.runner import Runner, Tokenizer
    from perfxlm_core.engine.sampler import Floats
    from perfxlm_core.engine.scheduler import Batch

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EngineStats:
    """The engine's state between two steps.

    Attributes:
        kv_cache_usage: Share of the KV blocks that requests hold, 0 to 1.
        num_computed_tokens: Tokens that went through the model since the start.
        num_generated_tokens: Tokens sampled since the start.
    """

    num_running: int
    num_waiting: int
    kv_cache_usage: float
    num_computed_tokens: int
    num_generated_tokens: int


@dataclass
class StepTimes:
    """Where the time of the last step went, in seconds; what is left is making outputs."""

    schedule: float = 0.0
    run: float = 0.0
    sample: float = 0.0


class Engine:
    """Runs many requests at once on one model.

    Args:
        generation_config: The model's own, for default parameters and end-of-sequence tokens.
    """

    def __init__(
        self,
        runner: Runner,
        tokenizer: Tokenizer | None,
        config: EngineConfig | None = None,
        generation_config: Mapping[str, Any] | None = None,
    ) -> None:
        config = EngineConfig() if config is None else config
        self.runner = runner
        self.tokenizer = tokenizer
        self.blocks = KVBlocks(
            runner.num_blocks,
            runner.block_size,
            max_num_seqs=runner.max_num_seqs,
            max_model_len=runner.max_model_len,
            enable_prefix_caching=config.enable_prefix_caching,
        )
        self.max_model_len = min(runner.max_model_len, self.blocks.capacity)
        self._check(runner, config)
        self.scheduler = Scheduler(
            self.blocks,
            max_num_seqs=runner.max_num_seqs,
            max_num_batched_tokens=runner.max_num_batched_tokens,
            max_rows=runner.inputs.logit_rows.size,
            by_priority=config.scheduling_policy == "priority",
            enable_chunked_prefill=config.enable_chunked_prefill,
        )
        self.admission = Admission(
            tokenizer,
            vocab_size=runner.vocab_size,
            max_model_len=self.max_model_len,
            max_logprobs=config.max_logprobs,
            generation_config=generation_config,
            seed=config.seed,
            structured_outputs_config=config.structured_outputs_config,
        )
        self._sampler = Sampler(runner.vocab_size)
        self._submissions: dict[str, Submission] = {}
        self._completions: dict[Request, Completion] = {}
        self._num_computed = self._num_generated = 0
        self.times = StepTimes()

    # -- requests -----------------------------------------------------------------------------

    def add_request(
        self,
        request_id: str,
        prompt: PromptType,
        params: SamplingParams | None = None,
        arrival_time: float | None = None,
        *,
        tokenization_kwargs: Mapping[str, Any] | None = None,
        priority: int = 0,
    ) -> str:
        """Queue a request; nothing happens to it before `step`.

        Args:
            params: None takes the model's recommended ones.
            priority: Smaller is served sooner, under the priority policy.

        Raises:
            ArgumentError: an argument cannot be used, or the id is taken.
            RequestError: the prompt does not fit.
        """
        submission = self.admission.submission(
            request_id,
            prompt,
            params,
            priority=priority,
            arrival_time=arrival_time,
            tokenization=tokenization_kwargs,
        )
        self.submit(submission)
        return request_id

    def submit(self, submission: Submission) -> None:
        """Queue a submission that `admission` has made.

        Raises:
            ArgumentError: its id is taken.
        """
        if submission.request_id in self._submissions:
            raise ArgumentError(
                f"request_id {submission.request_id!r} belongs to a request that still runs; "
                "use another"
            )
        self._submissions[submission.request_id] = submission
        for completion in submission.completions:
            self._completions[completion.request] = completion
            self.scheduler.add(completion.request)

    def abort_request(self, request_ids: str | Iterable[str]) -> list[RequestOutput]:
        """End requests now; their last outputs. Ids that are not running are ignored."""
        ids = [request_ids] if isinstance(request_ids, str) else request_ids
        aborted = [s for i in ids if (s := self._submissions.get(i)) is not None]
        for submission in aborted:
            for completion in submission.completions:
                if completion.finish_reason is None:
                    completion.finish(FinishReason.ABORT)
                    self._retire(completion)
        return self._outputs(dict.fromkeys(aborted))

    def has_unfinished_requests(self) -> bool:
        """Whether `step` has anything to do."""
        return bool(self._submissions)

    def get_num_unfinished_requests(self) -> int:
        """Requests that have not ended."""
        return len(self._submissions)

    # -- the step -----------------------------------------------------------------------------

    def step(self) -> list[RequestOutput]:
        """Compute the next tokens of a batch of requests; the outputs that this gave.

        When the device fails, all requests that hold memory on it end with its error.

        Raises:
            PerfxlmError: an earlier step was interrupted half-way, so that no request can go on.
        """
        began = time.monotonic()
        batch = self.scheduler.schedule()
        if not batch.requests:
            self._check_idle()
            return []
        now = time.monotonic()
        self._note_start(batch, now)
        tokens, seqs, rows = fill(self.runner.inputs, batch, self.blocks)
        filled = time.monotonic()
        try:
            logits = self.runner.run(tokens, seqs, rows)
        except DeviceError as error:
            return self._fail(error)
        ran = time.monotonic()
        sampled = self._read_logits(batch, logits)
        self.scheduler.computed(batch)
        self._num_computed += tokens
        touched = self._sample(sampled, logits)
        self.times = StepTimes(filled - began, ran - filled, time.monotonic() - ran)
        return self._outputs(touched)

    def _fail(self, error: DeviceError) -> list[RequestOutput]:
        """End what depends on the device's memory; requests that wait may be tried later."""
        running = [self._completions[request] for request in self.scheduler.running]
        failed = dict.fromkeys(completion.submission for completion in running)
        log.error("%d requests have failed: %s", len(failed), error)
        for submission in failed:
            submission.fail(error)
            for completion in submission.completions:
                if completion.finish_reason is None:
                    completion.finish(FinishReason.ERROR)
                    self._retire(completion)
        if not self.scheduler.running:
            self.blocks.pool.forget_all()
        return self._outputs(failed)

    def _check_idle(self) -> None:
        if self._submissions:
            raise PerfxlmError(
                f"{len(self._submissions)} requests cannot go on, because an earlier step was "
                "interrupted; end them with abort_request and submit them again"
            )

    def _note_start(self, batch: Batch, now: float) -> None:
        for request in batch.requests:
            stats = self._completions[request].submission.stats
            if stats.scheduled_ts == 0.0:
                stats.scheduled_ts = now

    def _read_logits(self, batch: Batch, logits: Floats) -> list[tuple[int, Completion]]:
        """Use the prompts' rows; each row that gives a token, and the completion it is for."""
        sampled, row = [], 0
        for request, count, rows in zip(batch.requests, batch.counts, batch.rows, strict=True):
            if rows == 0:
                continue
            completion = self._completions[request]
            end = request.num_computed_tokens + count
            if request.needs_prompt_logits and request.num_output_tokens == 0:
                self._read_prompt_logits(completion, logits[row : row + rows], end - rows)
            row += rows
            if end == request.num_tokens:
                sampled.append((row - 1, completion))
        return sampled

    def _read_prompt_logits(self, completion: Completion, logits: Floats, first: int) -> None:
        try:
            completion.submission.add_prompt_logits(logits, first)
        except RequestError as error:
            completion.submission.fail(error)
        completion.request.num_prompt_logits = first + len(logits)

    def _sample(
        self, sampled: list[tuple[int, Completion]], logits: Floats
    ) -> dict[Submission, None]:
        rows = [row for row, _ in sampled]
        if len(rows) != len(logits):
            logits = logits[rows]
        tokens = self._sampler.sample(logits, [c.sampler for _, c in sampled])
        now = time.monotonic()
        for row, token, (_, completion) in zip(logits, tokens, sampled, strict=True):
            self._advance(completion, token, row, now)
        return {completion.submission: None for _, completion in sampled}

    def _advance(
        self, completion: Completion, token: int | RequestError, row: Floats, now: float
    ) -> None:
        submission = completion.submission
        try:
            if isinstance(token, RequestError):
                raise token
            if submission.error is None:
                completion.add_logprobs(row, token)
        except RequestError as error:
            submission.fail(error)
        if submission.error is not None or isinstance(token, RequestError):
            completion.finish(FinishReason.ERROR)
        else:
            completion.add_token(token, self.max_model_len)
            submission.note_token(now)
            self._num_generated += 1
        if completion.finish_reason is not None:
            self._retire(completion)

    def _retire(self, completion: Completion) -> None:
        self.scheduler.finish(completion.request)
        del self._completions[completion.request]

    def _outputs(self, touched: dict[Submission, None]) -> list[RequestOutput]:
        outputs = []
        for submission in touched:
            output = submission.output()
            if output is not None:
                outputs.append(output)
            if submission.finished:
                del self._submissions[submission.request_id]
        return outputs

    # -- state --------------------------------------------------------------------------------

    def get_tokenizer(self) -> Tokenizer:
        """The tokenizer.

        Raises:
            ArgumentError: the engine was made without one.
        """
        if self.tokenizer is None:
            raise ArgumentError("this engine has no tokenizer: skip_tokenizer_init=True was given")
        return self.tokenizer

    def reset_prefix_cache(self) -> bool:
        """Forget every cached prefix; False, with nothing done, while requests hold blocks."""
        if self.scheduler.running:
            return False
        self.blocks.pool.forget_all()
        return True

    def stats(self) -> EngineStats:
        """The engine's state now."""
        return EngineStats(
            num_running=len(self.scheduler.running),
            num_waiting=self.scheduler.num_waiting,
            kv_cache_usage=self.blocks.usage,
            num_computed_tokens=self._num_computed,
            num_generated_tokens=self._num_generated,
        )

    def _check(self, runner: Runner, config: EngineConfig) -> None:
        rows = runner.inputs.logit_rows.size
        if rows < runner.max_num_seqs:
            raise ArgumentError(
                f"the runner gives {rows} rows of logits a step, fewer than "
                f"max_num_seqs={runner.max_num_seqs}"
            )
        budget = runner.max_num_batched_tokens
        if not config.enable_chunked_prefill and budget < self.max_model_len:
            raise ArgumentError(
                f"enable_chunked_prefill=False needs max_num_batched_tokens={budget} to be at "
                f"least max_model_len={self.max_model_len}; raise the one or lower the other"
            )
        if budget < runner.max_num_seqs:
            raise ArgumentError(
                f"max_num_batched_tokens={budget} must be at least "
                f"max_num_seqs={runner.max_num_seqs}: every running request takes a token a step"
            )
