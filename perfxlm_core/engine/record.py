"""What is known of a request from outside the step, in the engine's process and in the front's."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from perfxlm_core.engine.flat_logprobs import FlatLogprobs
from perfxlm_core.engine.outputs import RequestOutput

if TYPE_CHECKING:
    from perfxlm_core.engine.outputs import CompletionOutput, RequestStateStats, TokenLogprobs
    from perfxlm_core.engine.params import SamplingParams

Logprobs: TypeAlias = "list[TokenLogprobs] | FlatLogprobs"
PromptLogprobs: TypeAlias = "list[TokenLogprobs | None] | FlatLogprobs"


class RequestRecord:
    """A prompt, its parameters, and all of its outputs that is not part of one completion.

    Attributes:
        prompt_logprobs: One entry a prompt token, the first None; None unless asked for.
        num_cached_tokens: Prompt tokens that the prefix cache had; None before the first step.
        error: Why the request has ended, if it failed.
        engine_failed: Whether the engine is to blame for that.
    """

    def __init__(
        self,
        request_id: str,
        prompt: str | None,
        prompt_token_ids: list[int],
        params: SamplingParams,
        stats: RequestStateStats,
    ) -> None:
        self.request_id = request_id
        self.prompt = prompt
        self.prompt_token_ids = prompt_token_ids
        self.params = params
        self.stats = stats
        self.prompt_logprobs: PromptLogprobs | None = None
        self.num_cached_tokens: int | None = None
        self.error: str | None = None
        self.engine_failed = False

    def new_logprobs(self) -> Logprobs:
        """An empty list of log-probabilities, in the form that the request wants."""
        return FlatLogprobs() if self.params.flat_logprobs else []

    def new_prompt_logprobs(self) -> PromptLogprobs:
        """The same for a prompt."""
        return FlatLogprobs() if self.params.flat_logprobs else []

    def output_of(self, completions: list[CompletionOutput], *, finished: bool) -> RequestOutput:
        """What to tell the user now."""
        return RequestOutput(
            request_id=self.request_id,
            prompt=self.prompt,
            prompt_token_ids=self.prompt_token_ids,
            prompt_logprobs=self.prompt_logprobs,
            outputs=completions,
            finished=finished,
            metrics=self.stats,
            num_cached_tokens=self.num_cached_tokens,
            error=self.error,
            engine_failed=self.engine_failed,
        )
