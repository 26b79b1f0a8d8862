"""/v1/completions: prompts in, texts out, whole or as they come."""

from __future__ import annotations

import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from msgspec import json

from perfxlm_core.serve.gathering import outputs
from perfxlm_core.serve.http_errors import bad_request
from perfxlm_core.serve.logprobs import LegacyLogprobs, prompt_logprobs
from perfxlm_core.serve.sampling import sampling_params
from perfxlm_core.serve.service import new_id
from perfxlm_core.serve.usage import Usage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from perfxlm_core.engine.outputs import CompletionOutput, RequestOutput
    from perfxlm_core.engine.prompts import Prompt
    from perfxlm_core.serve.protocol.completions import CompletionRequest
    from perfxlm_core.serve.service import Service

MAX_PROMPTS = 2048
"""Prompts of one HTTP request."""


class Completions:
    """One HTTP request's work.

    Args:
        request_id: What the client calls it, if it does.
    """

    def __init__(
        self, service: Service, body: CompletionRequest, request_id: str | None = None
    ) -> None:
        self.service = service
        self.body = body
        self.id = new_id("cmpl", body.request_id or request_id)
        self.created = int(time.time())
        self.as_ids = bool(
            service.settings.return_tokens_as_token_ids
            if body.return_tokens_as_token_ids is None
            else body.return_tokens_as_token_ids
        )
        self.usage = Usage()
        self.only_prompt = bool(body.echo) and body.max_tokens == 0

    async def prepare(self) -> None:
        """Check everything, so that errors come before the answer begins.

        Raises:
            PerfxlmError: something cannot be used.
        """
        body = self.body
        self.prompts = await self._prompts()
        wanted = 1 if self.only_prompt else body.max_tokens
        params = sampling_params(self.service, body, wanted, logprobs=body.logprobs)
        if body.best_of is not None and body.best_of != params.n:
            raise bad_request("best_of is not supported; leave it out, or give n", "best_of")
        if body.echo and body.logprobs is not None and params.prompt_logprobs is None:
            params.prompt_logprobs = body.logprobs
        if body.stream and body.prompt_logprobs is not None:
            raise bad_request("prompt_logprobs cannot be streamed", "prompt_logprobs")
        self.service.check_params(params)
        self.params = params

    async def _prompts(self) -> list[Prompt]:
        given = self.body.prompt
        if given is None:
            raise bad_request("prompt is missing: a text, token ids, or a list of them", "prompt")
        several = isinstance(given, list) and bool(given) and isinstance(given[0], str | list)
        listed: list[Any] = given if several else [given]  # type: ignore[assignment]
        if len(listed) > MAX_PROMPTS:
            raise bad_request(
                f"prompt has {len(listed)} prompts, more than {MAX_PROMPTS}", "prompt"
            )
        return [await self._prompt(one) for one in listed]

    async def _prompt(self, given: str | list[int]) -> Prompt:
        body = self.body
        keep, salt = body.truncate_prompt_tokens, body.cache_salt
        if not given:
            raise bad_request("prompt is empty; it needs at least one token", "prompt")
        if isinstance(given, list):
            return self.service.prompt(None, given, keep, salt)
        special = True if body.add_special_tokens is None else body.add_special_tokens
        return await self.service.encoded(given, add_special_tokens=special, keep=keep, salt=salt)

    def _outputs(self) -> AsyncGenerator[tuple[int, RequestOutput]]:
        body = self.body
        return outputs(self.service, self.id, self.prompts, self.params, body.priority, body.user)

    def _prompt_text(self, place: int) -> str:
        prompt = self.prompts[place]
        if prompt.text is not None and self.body.truncate_prompt_tokens is None:
            return prompt.text
        return self.service.tokenizer.decode(prompt.token_ids or [])

    # -- whole --------------------------------------------------------------------------------

    async def whole(self) -> bytes:
        """The answer in one piece."""
        choices: list[dict[str, Any]] = []
        async with aclosing(self._outputs()) as source:
            async for place, output in source:
                self.usage.note(place, output)
                choices += [self._choice(place, output, done) for done in output.outputs]
        choices.sort(key=lambda choice: choice["index"])
        return json.encode(
            {
                "id": self.id,
                "object": "text_completion",
                "created": self.created,
                "model": self.service.model,
                "choices": choices,
                "service_tier": None,
                "system_fingerprint": self.service.fingerprint,
                "usage": self.usage.whole(),
                "kv_transfer_params": None,
                "ec_transfer_params": None,
                "metrics": None,
            }
        )

    def _choice(self, place: int, output: RequestOutput, done: CompletionOutput) -> dict[str, Any]:
        body = self.body
        text = "" if self.only_prompt else done.text
        return {
            "index": place * self.params.n + done.index,
            "text": self._prompt_text(place) + text if body.echo else text,
            "logprobs": self._logprobs(LegacyLogprobs(self.as_ids), output, done, first=True),
            "finish_reason": done.finish_reason,
            "stop_reason": done.stop_reason,
            "token_ids": list(done.token_ids) if body.return_token_ids else None,
            "prompt_logprobs": prompt_logprobs(output.prompt_logprobs),
            "prompt_token_ids": output.prompt_token_ids if body.return_token_ids else None,
            "routed_experts": None,
        }

    def _logprobs(
        self, writer: LegacyLogprobs, output: RequestOutput, done: CompletionOutput, *, first: bool
    ) -> dict[str, Any] | None:
        """The object; with `echo`, an answer's first one has the prompt's tokens too."""
        if self.body.logprobs is None:
            return None
        ids, entries = list(done.token_ids), list(done.logprobs or ())
        if self.only_prompt:
            ids, entries = [], []
        text = ""
        if self.body.echo and first:
            prompt = output.prompt_token_ids or []
            known = output.prompt_logprobs or [None] * len(prompt)
            text = self.service.tokenizer.decode(prompt[:1], skip_special_tokens=False)
            return writer.of([*prompt, *ids], [*known, *entries], text)
        return writer.of(ids, entries)

    # -- streamed -----------------------------------------------------------------------------

    async def chunks(self) -> AsyncGenerator[bytes]:
        """The answer as it comes, as server-sent events."""
        body = self.body
        options = body.stream_options
        include = self.service.settings.enable_force_include_usage or bool(
            options and options.include_usage
        )
        continuous = include and bool(options and options.continuous_usage_stats)
        head = self._head()
        writers: dict[int, LegacyLogprobs] = {}
        async with aclosing(self._outputs()) as source:
            async for place, output in source:
                self.usage.note(place, output)
                usage = b',"usage":' + json.encode(self.usage.brief()) if continuous else b""
                for done in output.outputs:
                    index = place * self.params.n + done.index
                    chunk = self._chunk(index, place, output, done, writers)
                    if chunk is not None:
                        yield b"".join((head, chunk, usage, b"}\n\n"))
        if include:
            tail = {"usage": self.usage.last(), "system_fingerprint": self.service.fingerprint}
            yield b"".join((head, b"],", json.encode(tail)[1:], b"\n\n"))

    def _head(self) -> bytes:
        start = {
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.service.model,
        }
        return b"data: " + json.encode(start)[:-1] + b',"choices":['

    def _chunk(
        self,
        index: int,
        place: int,
        output: RequestOutput,
        done: CompletionOutput,
        writers: dict[int, LegacyLogprobs],
    ) -> bytes | None:
        """One choice; None if there is nothing to say yet."""
        body, first = self.body, index not in writers
        writer = writers.setdefault(index, LegacyLogprobs(self.as_ids))
        text = "" if self.only_prompt else done.text
        if body.echo and first:
            text = self._prompt_text(place) + text
        told = done.finish_reason is not None or body.return_token_ids or body.logprobs is not None
        if not text and not told:
            return None
        logprobs = self._logprobs(writer, output, done, first=first)
        prompt_ids = output.prompt_token_ids if body.return_token_ids and first else None
        return b"".join(
            (
                b'{"index":%d,"text":' % index,
                json.encode(text),
                b',"logprobs":',
                b"null" if logprobs is None else json.encode(logprobs),
                b',"finish_reason":',
                json.encode(done.finish_reason),
                b',"stop_reason":',
                json.encode(done.stop_reason),
                b',"prompt_token_ids":',
                json.encode(prompt_ids),
                b',"token_ids":',
                json.encode(list(done.token_ids)) if body.return_token_ids else b"null",
                b"}]",
            )
        )
