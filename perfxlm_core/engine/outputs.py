"""What a request gives back: `RequestOutput`, `CompletionOutput`, `Logprob`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perfxlm_core.engine.flat_logprobs import FlatLogprobs


@dataclass(slots=True)
class Logprob:
    """One token's log-probability under the raw logits.

    Attributes:
        rank: 1 for the likeliest token of the vocabulary.
        decoded_token: Its text on its own; None when the request does not detokenize.
    """

    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


TokenLogprobs = dict[int, Logprob]
"""Token id to log-probability: the token itself and the likeliest ones."""


@dataclass(slots=True)
class CompletionOutput:
    """One of a request's `n` outputs.

    Attributes:
        index: Which of the `n`.
        cumulative_logprob: Sum over the generated tokens; None unless logprobs were asked for.
        logprobs: One entry a generated token; None unless asked for.
        finish_reason: "stop", "length", "abort" or "error"; None while it runs.
        stop_reason: The stop string or token id that ended it; None for the end-of-sequence token.

    `routed_experts` and `lora_request` are there for programs that read them, and always None.
    """

    index: int
    text: str
    token_ids: Sequence[int]
    cumulative_logprob: float | None = None
    logprobs: list[TokenLogprobs] | FlatLogprobs | None = None
    routed_experts: None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    lora_request: None = None

    def finished(self) -> bool:
        """Whether nothing more will come."""
        return self.finish_reason is not None


@dataclass(slots=True)
class RequestStateStats:
    """When things happened to a request, in seconds.

    Attributes:
        arrival_time: Seconds since the epoch; the `_ts` fields are of the monotonic clock.
    """

    num_generation_tokens: int = 0
    num_preemptions: int = 0
    arrival_time: float = 0.0
    queued_ts: float = 0.0
    scheduled_ts: float = 0.0
    first_token_ts: float = 0.0
    last_token_ts: float = 0.0
    first_token_latency: float = 0.0


@dataclass(slots=True)
class RequestOutput:
    """What is known of a request after a step.

    Attributes:
        prompt: Its text; None when it came as token ids.
        prompt_logprobs: One entry a prompt token, the first None; None unless asked for.
        outputs: `n` completions, ordered by index.
        num_cached_tokens: Prompt tokens that the prefix cache already had.
        error: Why the request ended with `finish_reason` "error".
        engine_failed: Whether the engine is to blame for `error`, and not the request.

    `lora_request` and the encoder's prompt are there for programs that read them, and always None.
    """

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int] | None
    prompt_logprobs: list[TokenLogprobs | None] | FlatLogprobs | None
    outputs: list[CompletionOutput]
    finished: bool
    metrics: RequestStateStats | None = field(default=None, repr=False)
    lora_request: None = field(default=None, repr=False)
    encoder_prompt: None = field(default=None, repr=False)
    encoder_prompt_token_ids: None = field(default=None, repr=False)
    num_cached_tokens: int | None = None
    error: str | None = None
    engine_failed: bool = False
