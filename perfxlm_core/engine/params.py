"""How one request is sampled: `SamplingParams`, field for field what vLLM's users know."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Any

from perfxlm_core.engine.checks import check_ids, check_strings, is_int, is_real, require, some
from perfxlm_core.engine.dropped_keywords import accepting_dropped
from perfxlm_core.engine.structured_params import StructuredOutputsParams
from perfxlm_core.errors import ArgumentError

GREEDY_BELOW = 1e-5
"""Temperatures under this pick the likeliest token."""
MIN_TEMPERATURE = 0.01
MAX_N = 16384
MAX_LOGPROB_IDS = 128

_UNSUPPORTED: Mapping[str, Any] = {
    "watermarking": None,
    "prompt_logprob_token_ids": None,
    "prompt_logprob_start": None,
    "output_text_buffer_length": 0,
    "thinking_token_budget": None,
    "repetition_detection": None,
    "routed_experts_prompt_start": 0,
    "trace_decode_token_ids": None,
}
_FROM_GENERATION_CONFIG = {
    "repetition_penalty": "repetition_penalty",
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "max_new_tokens": "max_tokens",
}


class RequestOutputKind(Enum):
    """What each step's output of a request holds."""

    CUMULATIVE = 0
    """Everything generated so far."""
    DELTA = 1
    """Only what is new."""
    FINAL_ONLY = 2
    """Nothing until the request has finished."""


class SamplingType(IntEnum):
    """How tokens are drawn."""

    GREEDY = 0
    RANDOM = 1
    RANDOM_SEED = 2


@accepting_dropped
@dataclass
class SamplingParams:
    """Sampling parameters of a request; keyword or positional in this order.

    Args:
        n: Outputs to generate from the prompt.
        presence_penalty: Subtracted from the logit of every token already generated; -2 to 2.
        frequency_penalty: The same, times how often it was generated; -2 to 2.
        repetition_penalty: Divides the positive logits, and multiplies the negative ones, of every
            token in the prompt or the output; above 0, 1 is off.
        temperature: Divides the logits; 0 is greedy, at most 2.
        top_p: Keep the fewest tokens whose probabilities reach this sum; above 0, at most 1.
        top_k: Keep this many tokens; 0 or -1 keeps all.
        min_p: Keep tokens at least this fraction as likely as the likeliest; 0 to 1.
        seed: Makes the text repeatable, whatever else is in the batch; None draws from the
            engine's own seed.
        stop: Strings that end the text.
        stop_token_ids: Tokens that end the text.
        ignore_eos: Go on after the model's end-of-sequence tokens.
        max_tokens: Tokens to generate at most; None means as many as the context holds.
        min_tokens: Tokens to generate before any stop condition may apply.
        logprobs: Log-probabilities (of the raw logits) to return for each generated token; the
            token itself is always among them. -1 returns the whole vocabulary.
        prompt_logprobs: The same for the prompt's tokens.
        detokenize: Whether to produce text at all.
        skip_special_tokens: Leave special tokens out of the text.
        include_stop_str_in_output: Keep the stop string, or the stop token's text.
        logprob_token_ids: Tokens whose log-probabilities to return, in place of the likeliest.
        flat_logprobs: Return log-probabilities as `FlatLogprobs`, a few lists, not dicts.
        spaces_between_special_tokens: No tokenizer here adds any, so both values give one text.
        output_kind: What `step` returns while the request runs.
        stream_interval: Tokens between two outputs of a running request; the first one is at once.
        structured_outputs: What the output must look like.
        extra_args: For custom processors; nothing here reads them.
        logit_bias: Added to the logits of these token ids, clamped to -100..100.
        allowed_token_ids: Only these tokens can be generated.
        bad_words: Strings whose token sequences are never completed.
        skip_reading_prefix_cache: Compute the whole prompt even where the cache has it.
        truncate_prompt_tokens: Keep this many of the prompt's last tokens; -1 as many as fit.

    Raises:
        ArgumentError: a value is outside its range, or a field is not supported by this engine.

    Source:
        Names, order and defaults are those of vLLM 0.33; the last field is one of its past.
    """

    n: int = 1
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    watermarking: Any = None
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    prompt_logprob_token_ids: Any = None
    prompt_logprob_start: Any = None
    logprob_token_ids: list[int] | None = None
    flat_logprobs: bool = False
    detokenize: bool = True
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    include_stop_str_in_output: bool = False
    output_kind: RequestOutputKind = RequestOutputKind.CUMULATIVE
    stream_interval: int | None = None
    skip_clone: bool = False
    output_text_buffer_length: int = 0
    structured_outputs: StructuredOutputsParams | None = None
    logit_bias: dict[int, float] | None = None
    allowed_token_ids: list[int] | None = None
    extra_args: dict[str, Any] | None = None
    bad_words: list[str] | None = None
    skip_reading_prefix_cache: bool | None = None
    thinking_token_budget: int | None = None
    repetition_detection: Any = None
    routed_experts_prompt_start: int = 0
    trace_decode_token_ids: Any = None
    truncate_prompt_tokens: int | None = None

    def __post_init__(self) -> None:
        self._normalize()
        self._check()

    # -- construction -------------------------------------------------------------------------

    @classmethod
    def from_optional(cls, **values: Any) -> SamplingParams:  # noqa: ANN401 - any field
        """Parameters from values that may be None, which means the field's default.

        `logit_bias` may have string keys, as JSON has.
        """
        given = {k: v for k, v in values.items() if v is not None or k == "max_tokens"}
        return cls(**given)

    def clone(self) -> SamplingParams:
        """A copy that shares no list or dict with this one."""
        return copy.deepcopy(self)

    def update_from_generation_config(
        self, generation_config: Mapping[str, Any], eos_token_id: int | None = None
    ) -> None:
        """Add the model's further end-of-sequence tokens to the stop tokens.

        A model may name several (`eos_token_id: [2, 32000]`); unless `ignore_eos` is set each ends
        the text. The tokenizer's own, `eos_token_id`, is left out: it ends the text anyway, and
        without a `stop_reason`.
        """
        found = generation_config.get("eos_token_id")
        if self.ignore_eos or found is None:
            return
        ids = {found} if isinstance(found, int) else {int(i) for i in found}
        ids -= {eos_token_id}
        self.stop_token_ids = sorted(ids.union(self.stop_token_ids or []))

    # -- reading ------------------------------------------------------------------------------

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature < GREEDY_BELOW

    @property
    def sampling_type(self) -> SamplingType:
        """Greedy, random, or random with a seed of its own."""
        if self.is_greedy:
            return SamplingType.GREEDY
        return SamplingType.RANDOM if self.seed is None else SamplingType.RANDOM_SEED

    @property
    def has_penalties(self) -> bool:
        """Whether what was generated before changes the logits."""
        return bool(
            self.presence_penalty or self.frequency_penalty or self.repetition_penalty != 1.0
        )

    @property
    def stop_strings(self) -> list[str]:
        """`stop` as a list."""
        if self.stop is None:
            return []
        return [self.stop] if isinstance(self.stop, str) else self.stop

    def check_for(self, vocab_size: int, max_logprobs: int) -> None:
        """Check again, now against a model.

        Raises:
            ArgumentError: a token id is outside the vocabulary, or more log-probabilities are asked
                for than the engine allows.
        """
        self._normalize()
        self._check()
        listed = self.logprob_token_ids is not None
        for name in ("prompt_logprobs",) if listed else ("logprobs", "prompt_logprobs"):
            count = getattr(self, name)
            wanted = vocab_size if count == -1 else count
            if wanted is not None and max_logprobs != -1 and wanted > max_logprobs:
                raise ArgumentError(
                    f"{name}={count} asks for {wanted} log-probabilities, more than the "
                    f"{max_logprobs} allowed; start the engine with max_logprobs={wanted} or more",
                    parameter=name,
                    value=count,
                )
        for name in ("stop_token_ids", "allowed_token_ids", "logit_bias", "logprob_token_ids"):
            outside = sorted(i for i in getattr(self, name) or () if not 0 <= i < vocab_size)
            if outside:
                raise ArgumentError(
                    f"{name} contains {some(outside)}, outside the vocabulary; "
                    f"token ids go from 0 to {vocab_size - 1}",
                    parameter=name,
                )

    # -- checks -------------------------------------------------------------------------------

    def _normalize(self) -> None:
        self.stop = self.stop_strings
        self.stop_token_ids = list(dict.fromkeys(self.stop_token_ids or []))
        self.bad_words = list(self.bad_words or [])
        if self.seed == -1:
            self.seed = None
        if self.logprobs is True:
            self.logprobs = 1
        if self.prompt_logprobs is True:
            self.prompt_logprobs = 1
        if self.structured_outputs is not None:
            self.structured_outputs = StructuredOutputsParams.of(self.structured_outputs)
        if self.logprob_token_ids is not None and self.logprobs is None:
            self.logprobs = len(self.logprob_token_ids)
        if self.logit_bias is not None:
            self.logit_bias = {
                int(k): min(100.0, max(-100.0, float(v))) for k, v in self.logit_bias.items()
            }
        if self.prompt_logprobs is not None and self.skip_reading_prefix_cache is None:
            self.skip_reading_prefix_cache = True

    def _check(self) -> None:
        self._refuse_unsupported()
        self._check_numbers()
        self._check_lengths()
        self._check_tokens_and_strings()
        if self.is_greedy:
            require(self.n == 1, "n", "1 when using greedy sampling", self.n)
            self.top_p, self.top_k, self.min_p = 1.0, 0, 0.0
        elif self.temperature < MIN_TEMPERATURE:
            logging.getLogger(__name__).warning(
                "temperature=%s is too small to divide by; using %s",
                self.temperature,
                MIN_TEMPERATURE,
            )
            self.temperature = MIN_TEMPERATURE

    def _refuse_unsupported(self) -> None:
        for name, default in _UNSUPPORTED.items():
            value = getattr(self, name)
            if value != default and value is not default:
                raise ArgumentError(
                    f"SamplingParams.{name}={value!r} is not supported; leave it at {default!r}",
                    parameter=name,
                    value=value,
                )

    def _check_numbers(self) -> None:
        require(is_int(self.n) and 1 <= self.n <= MAX_N, "n", f"from 1 to {MAX_N}", self.n)
        for name in ("presence_penalty", "frequency_penalty"):
            value = getattr(self, name)
            require(is_real(value) and -2 <= value <= 2, name, "in [-2, 2]", value)
        penalty = self.repetition_penalty
        require(
            is_real(penalty) and penalty > 0, "repetition_penalty", "greater than zero", penalty
        )
        t = self.temperature
        require(is_real(t) and 0 <= t <= 2, "temperature", "in [0, 2]", t)
        require(is_real(self.top_p) and 0 < self.top_p <= 1, "top_p", "in (0, 1]", self.top_p)
        require(is_real(self.min_p) and 0 <= self.min_p <= 1, "min_p", "in [0, 1]", self.min_p)
        k = self.top_k
        require(is_int(k) and k >= -1, "top_k", "an integer: 0 or -1 (off), or at least 1", k)
        if self.seed is not None:
            require(is_int(self.seed), "seed", "an integer or None", self.seed)

    def _check_lengths(self) -> None:
        limit = self.max_tokens
        if limit is not None:
            require(is_int(limit) and limit >= 1, "max_tokens", "at least 1 (or None)", limit)
        least = self.min_tokens
        require(is_int(least) and least >= 0, "min_tokens", "0 or more", least)
        if limit is not None and least > limit:
            raise ArgumentError(
                f"min_tokens must be less than or equal to max_tokens={limit}, got {least}.",
                parameter="min_tokens",
                value=least,
            )
        for name in ("logprobs", "prompt_logprobs"):
            value = getattr(self, name)
            if value is not None:
                require(is_int(value) and value >= -1, name, "non-negative or -1", value)
        interval, kept = self.stream_interval, self.truncate_prompt_tokens
        if interval is not None:
            require(is_int(interval) and interval >= 1, "stream_interval", "1 or more", interval)
        if kept is not None:
            good = is_int(kept) and (kept >= 1 or kept == -1)
            require(good, "truncate_prompt_tokens", "-1 or at least 1", kept)

    def _check_tokens_and_strings(self) -> None:
        check_ids("stop_token_ids", self.stop_token_ids)
        check_strings("stop", self.stop)
        check_strings("bad_words", self.bad_words)
        require(isinstance(self.extra_args, dict | None), "extra_args", "a dict", self.extra_args)
        if self.stop and not self.detokenize:
            raise ArgumentError(
                "stop strings are only supported when detokenize is True. "
                "Set detokenize=True to use stop.",
                parameter="stop",
            )
        if self.logprob_token_ids is not None:
            self._check_logprob_ids(self.logprob_token_ids)
        if self.allowed_token_ids is not None:
            check_ids("allowed_token_ids", self.allowed_token_ids)
            require(len(self.allowed_token_ids) > 0, "allowed_token_ids", "None or not empty", [])

    def _check_logprob_ids(self, ids: list[int]) -> None:
        check_ids("logprob_token_ids", ids)
        fits = 1 <= len(ids) <= MAX_LOGPROB_IDS
        require(fits, "logprob_token_ids", f"1 to {MAX_LOGPROB_IDS} tokens", ids)
        same = self.logprobs in (None, len(ids))
        require(same, "logprobs", "None or the number of logprob_token_ids", self.logprobs)


def default_sampling_params(generation_config: Mapping[str, Any]) -> SamplingParams:
    """What a model's authors recommend in its generation_config.json, else the defaults."""
    found = {
        ours: generation_config[theirs]
        for theirs, ours in _FROM_GENERATION_CONFIG.items()
        if generation_config.get(theirs) is not None
    }
    return SamplingParams(**found)
