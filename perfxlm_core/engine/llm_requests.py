"""How an `LLM` runs requests: queued, stepped for everybody, their outputs handed out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from threading import RLock
from typing import TYPE_CHECKING, Any

from perfxlm_core.engine.llm_base import LLMBase
from perfxlm_core.engine.params import RequestOutputKind, SamplingParams
from perfxlm_core.engine.progress import Progress
from perfxlm_core.engine.prompts import Prompt, parse_conversations
from perfxlm_core.errors import ArgumentError

if TYPE_CHECKING:
    from perfxlm_core.engine.completion import Submission
    from perfxlm_core.engine.llm_engine import LLMEngine
    from perfxlm_core.engine.outputs import RequestOutput

UseTqdm = bool | Callable[..., Any]
ParamsOrList = SamplingParams | Sequence[SamplingParams] | None


class LLMRequests(LLMBase):
    """The requests of an `LLM`; whoever waits for one advances all of them."""

    def _attach(self, engine: LLMEngine, chat_template: str | None) -> None:
        self.llm_engine = engine
        self._chat_template = chat_template
        self._ids = count()
        self._mail: dict[str, deque[RequestOutput]] = {}
        self._bars: dict[str, Progress] = {}
        self._queued: list[Submission] = []
        self._lock = RLock()  # of the engine, the mail and the bars

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
        submissions = self._final(self._submissions(prompts, params, priority, tokenization))
        with Progress(len(submissions), use_tqdm) as progress:
            try:
                self._submit(submissions, progress)
                return [self._await(s) for s in submissions]
            finally:
                self._abandon(submissions)

    def _final(self, submissions: list[Submission]) -> list[Submission]:
        for submission in submissions:
            submission.params.output_kind = RequestOutputKind.FINAL_ONLY
        return submissions

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
            if not awaited:
                self._deliver(self.llm_engine.step())

    def _deliver(self, outputs: Sequence[RequestOutput]) -> None:
        for output in outputs:
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


def _one_each(name: str, value: Any, num_prompts: int) -> list[Any]:  # noqa: ANN401
    """`value` once a prompt, whether it was one or a sequence."""
    if not isinstance(value, Sequence):
        return [value] * num_prompts
    if len(value) != num_prompts:
        raise ArgumentError(
            f"{name} has {len(value)} entries for {num_prompts} prompts; give one for each"
        )
    return list(value)
