"""From what a user passes to a submission that the engine can run; everything is checked here."""

from __future__ import annotations

import time
from itertools import count
from typing import TYPE_CHECKING, Any

from perfxlm_core.engine.completion import Completion, Submission, TokenTexts
from perfxlm_core.engine.detokenizer import Detokenizer
from perfxlm_core.engine.grammar import Grammar, Grammars
from perfxlm_core.engine.params import SamplingParams, default_sampling_params
from perfxlm_core.engine.prompts import Prompt, PromptType, parse_prompt
from perfxlm_core.engine.request import Request
from perfxlm_core.engine.sampler import RequestSampler
from perfxlm_core.errors import ArgumentError, RequestError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from perfxlm_core.engine.runner import Tokenizer
    from perfxlm_core.engine.structured_params import StructuredOutputsParams

_TOKENIZATION = frozenset({"add_special_tokens", "truncate_prompt_tokens"})


class Admission:
    """Checks prompts and parameters against the model, and makes submissions of them.

    Args:
        max_model_len: Tokens that a prompt and its output can have together.
        generation_config: The model's, for its defaults and end-of-sequence tokens.
        seed: Of requests without a seed of their own.
        structured_outputs_config: Defaults of requests that have a constraint.
    """

    def __init__(
        self,
        tokenizer: Tokenizer | None,
        *,
        vocab_size: int,
        max_model_len: int,
        max_logprobs: int = 20,
        generation_config: Mapping[str, Any] | None = None,
        seed: int = 0,
        structured_outputs_config: Mapping[str, Any] | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.vocab_size = vocab_size
        self.max_model_len = max_model_len
        self.max_logprobs = max_logprobs
        self.generation_config = generation_config or {}
        self.seed = seed
        self._structured_config = structured_outputs_config or {}
        self.eos_token_id = tokenizer.eos_token_id if tokenizer is not None else None
        self._eos_ids = _eos_ids(self.generation_config, tokenizer)
        self._grammars = Grammars(tokenizer, vocab_size, self._eos_ids)
        self._texts = TokenTexts(tokenizer)
        self._orders = count()

    def default_params(self) -> SamplingParams:
        """The model's recommended parameters."""
        return default_sampling_params(self.generation_config)

    def checked(
        self,
        prompt: PromptType | Prompt,
        params: SamplingParams | None = None,
        tokenization: Mapping[str, Any] | None = None,
    ) -> tuple[Prompt, list[int], SamplingParams]:
        """A prompt in the engine's terms, its token ids, and a copy of the parameters.

        A constraint is not compiled here; `submission` does it.

        Raises:
            ArgumentError: the prompt or the parameters cannot be used.
            RequestError: the prompt does not fit.
        """
        params = self.default_params() if params is None else _copied(params)
        self._check_params(params)
        parsed = prompt if isinstance(prompt, Prompt) else parse_prompt(prompt)
        return parsed, self._token_ids(parsed, _tokenization(params, tokenization)), params

    def submission(
        self,
        request_id: str,
        prompt: PromptType | Prompt,
        params: SamplingParams | None = None,
        *,
        priority: int = 0,
        arrival_time: float | None = None,
        tokenization: Mapping[str, Any] | None = None,
        client: str = "",
    ) -> Submission:
        """A checked submission.

        Args:
            client: Whose it is; those of different clients are started in turns.

        Raises:
            ArgumentError: the prompt or the parameters cannot be used.
            RequestError: the prompt does not fit.
        """
        parsed, ids, params = self.checked(prompt, params, tokenization)
        params.update_from_generation_config({"eos_token_id": self._eos_ids}, self.eos_token_id)
        eos = None if params.ignore_eos else self.eos_token_id
        stop_ids = frozenset(params.stop_token_ids or ()) | ({eos} if eos is not None else set())
        submission = Submission(
            request_id,
            parsed.text,
            ids,
            params,
            stop_ids=stop_ids,
            eos_token_id=eos,
            texts=self._texts,
            arrival_time=time.time() if arrival_time is None else arrival_time,
            queued_ts=time.monotonic(),
        )
        bad_words = self._bad_words(params)
        for index in range(params.n):
            completion = self._completion(submission, index, bad_words, priority, parsed.cache_salt)
            completion.request.client = client
            submission.completions.append(completion)
        return submission

    def _completion(
        self,
        submission: Submission,
        index: int,
        bad_words: list[list[int]],
        priority: int,
        cache_salt: str,
    ) -> Completion:
        params, order = submission.params, next(self._orders)
        name = submission.request_id if params.n == 1 else f"{index}_{submission.request_id}"
        request = Request(
            name,
            submission.prompt_token_ids,
            order=order,
            priority=priority,
            cache_salt=cache_salt,
            skip_reading_prefix_cache=bool(params.skip_reading_prefix_cache) and index == 0,
            needs_prompt_logits=params.prompt_logprobs is not None and index == 0,
        )
        sampler = RequestSampler(
            params,
            vocab_size=self.vocab_size,
            prompt_token_ids=request.token_ids[: request.num_tokens],
            stop_token_ids=submission.stop_ids,
            bad_words=bad_words,
            seed=self._seed(params, order, index),
            grammar=self._grammar(params),
        )
        return Completion(submission, index, request, sampler, self._detokenizer(params, request))

    def _grammar(self, params: SamplingParams) -> Grammar | None:
        structured = params.structured_outputs
        return None if structured is None else self._grammars.grammar(structured)

    def _seed(self, params: SamplingParams, order: int, index: int) -> list[int]:
        if params.seed is None:
            return [0, self.seed % 2**64, order]
        return [1, (params.seed + index) % 2**64]

    def _detokenizer(self, params: SamplingParams, request: Request) -> Detokenizer:
        stream = None
        if params.detokenize and self.tokenizer is not None:
            context = request.token_ids[max(0, request.num_tokens - 8) : request.num_tokens]
            stream = self.tokenizer.decode_stream(
                context.tolist(), skip_special_tokens=params.skip_special_tokens
            )
        return Detokenizer(
            stream,
            params.stop_strings,
            include_stop=params.include_stop_str_in_output,
            min_tokens=params.min_tokens,
        )

    def _check_params(self, params: SamplingParams) -> None:
        params.check_for(self.vocab_size, self.max_logprobs)
        if params.structured_outputs is not None:
            self._check_structured(params, params.structured_outputs)
        if self.tokenizer is None and (params.stop_strings or params.bad_words):
            raise ArgumentError("stop and bad_words need a tokenizer, and there is none")

    def _check_structured(
        self, params: SamplingParams, structured: StructuredOutputsParams
    ) -> None:
        if params.ignore_eos:
            raise ArgumentError(
                "ignore_eos=True does not go with structured_outputs: the output ends where the "
                "constraint does",
                parameter="ignore_eos",
            )
        params.structured_outputs = structured.with_defaults(self._structured_config)

    def _token_ids(self, prompt: Prompt, tokenization: dict[str, Any]) -> list[int]:
        unknown = sorted(tokenization.keys() - _TOKENIZATION)
        if unknown:
            raise ArgumentError(
                f"tokenization_kwargs has {unknown[0]!r}; supported: {sorted(_TOKENIZATION)}"
            )
        ids = self._encode(prompt, add_special_tokens=tokenization.get("add_special_tokens", True))
        kept = tokenization.get("truncate_prompt_tokens")
        if kept is not None:
            ids = ids[-self._kept(kept) :]
        self._check_ids(ids)
        return ids

    def _kept(self, given: object) -> int:
        if not isinstance(given, int) or isinstance(given, bool) or (given < 1 and given != -1):
            raise ArgumentError(
                f"truncate_prompt_tokens must be a number of tokens, or -1 for as many as fit, "
                f"got {given!r}"
            )
        return self.max_model_len - 1 if given == -1 else given

    def _encode(self, prompt: Prompt, *, add_special_tokens: bool) -> list[int]:
        if prompt.token_ids is not None:
            return prompt.token_ids
        if self.tokenizer is None:
            raise ArgumentError("a text prompt needs a tokenizer; pass prompt_token_ids instead")
        return self.tokenizer.encode(prompt.text or "", add_special_tokens=bool(add_special_tokens))

    def _check_ids(self, ids: list[int]) -> None:
        if not ids:
            raise RequestError("the prompt is empty; it needs at least one token")
        if len(ids) >= self.max_model_len:
            raise RequestError(
                f"the prompt has {len(ids)} tokens; with max_model_len={self.max_model_len} it can "
                f"have at most {self.max_model_len - 1}, so that one more can be generated; "
                "shorten it, or raise max_model_len if the model and memory allow"
            )
        low, high = min(ids), max(ids)
        if low < 0 or high >= self.vocab_size:
            raise RequestError(
                f"token id {low if low < 0 else high} is outside the vocabulary; "
                f"ids go from 0 to {self.vocab_size - 1}"
            )

    def _bad_words(self, params: SamplingParams) -> list[list[int]]:
        """Token sequences of the bad words, at the start of a text and after a space."""
        if not params.bad_words or self.tokenizer is None:
            return []
        found: list[list[int]] = []
        for word in params.bad_words:
            bare = word.lstrip()
            for text in (bare, f" {bare}"):
                ids = self.tokenizer.encode(text, add_special_tokens=False)
                if ids and ids not in found:
                    found.append(ids)
        return found


def _tokenization(params: SamplingParams, given: Mapping[str, Any] | None) -> dict[str, Any]:
    kept = params.truncate_prompt_tokens
    return {**({} if kept is None else {"truncate_prompt_tokens": kept}), **(given or {})}


def _copied(params: object) -> SamplingParams:
    if not isinstance(params, SamplingParams):
        raise ArgumentError(f"sampling_params is {type(params).__name__}; expected SamplingParams")
    return params.clone()


def _eos_ids(generation_config: Mapping[str, Any], tokenizer: Tokenizer | None) -> list[int]:
    """Every token that ends a sequence, says the model or its tokenizer."""
    found = generation_config.get("eos_token_id")
    listed = [found] if isinstance(found, int) else list(found or ())
    return sorted({*listed, *(tokenizer.eos_token_ids if tokenizer is not None else ())})
