"""A conversation's next turn, in pieces; /v1/chat/completions writes them, other routes too."""

from __future__ import annotations

import json
import time
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from perfxlm_core.engine.prompts import parse_conversations
from perfxlm_core.serve.gathering import outputs
from perfxlm_core.serve.http_errors import bad_request
from perfxlm_core.serve.reader import AnswerReader, Piece
from perfxlm_core.serve.sampling import sampling_params
from perfxlm_core.serve.service import new_id
from perfxlm_core.serve.tool_choice import tool_descriptions, tool_use
from perfxlm_core.serve.usage import Usage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from perfxlm_core.engine.outputs import CompletionOutput, RequestOutput
    from perfxlm_core.engine.prompts import Prompt
    from perfxlm_core.serve.protocol.chat import ChatRequest
    from perfxlm_core.serve.reasoning import ReasoningParser
    from perfxlm_core.serve.service import Service


@dataclass(slots=True)
class TurnPiece:
    """What came for one choice.

    Attributes:
        finish_reason: OpenAI's: "stop", "length", "tool_calls" ...; None while it goes on.
    """

    output: RequestOutput
    done: CompletionOutput
    piece: Piece
    finish_reason: str | None


@dataclass
class Turn:
    """A whole answer, put together from its pieces."""

    last: TurnPiece
    content: str = ""
    reasoning: str = ""
    calls: list[dict[str, Any]] = field(default_factory=list)

    def add(self, piece: Piece) -> None:
        """Go on with what came."""
        self.content += piece.content
        self.reasoning += piece.reasoning
        for call in piece.calls:
            if call.name is not None:
                function = {"name": call.name, "arguments": ""}
                self.calls.append({"id": call.id, "type": "function", "function": function})
            self.calls[call.index]["function"]["arguments"] += call.arguments or ""


class Chat:
    """One HTTP request's work.

    Args:
        prefix: Of the answer's id.
        request_id: What the client calls it, if it does.
    """

    def __init__(
        self,
        service: Service,
        body: ChatRequest,
        request_id: str | None = None,
        prefix: str = "chatcmpl",
    ) -> None:
        self.service = service
        self.body = body
        self.id = new_id(prefix, body.request_id or request_id)
        self.created = int(time.time())
        self.usage = Usage()
        self._readers: dict[int, AnswerReader] = {}
        self._called: set[int] = set()

    # -- before -------------------------------------------------------------------------------

    async def prepare(self) -> None:
        """Check everything, so that errors come before the answer begins.

        Raises:
            PerfxlmError: something cannot be used.
        """
        body, service = self.body, self.service
        self.tools = tool_use(body, service.settings)
        self.prompt = await self._rendered()
        reasoning = self._new_reasoning()
        constraint = None if self.tools.schema is None else {"json": self.tools.schema}
        params = sampling_params(
            service, body, self._max_tokens(), logprobs=self._logprobs(), constraint=constraint
        )
        if body.stream and body.prompt_logprobs is not None:
            raise bad_request("prompt_logprobs cannot be streamed", "prompt_logprobs")
        if body.skip_special_tokens is None:
            params.skip_special_tokens = not (
                (reasoning is not None and reasoning.keeps_special_tokens)
                or (
                    self.tools.new_parser is not None
                    and self.tools.new_parser().keeps_special_tokens
                )
            )
        service.check_params(params)
        self.params = params

    def _max_tokens(self) -> int | None:
        body = self.body
        if body.max_completion_tokens is not None:
            return body.max_completion_tokens
        return body.max_tokens

    def _logprobs(self) -> int | None:
        body = self.body
        if not body.logprobs:
            if body.top_logprobs:
                raise bad_request("top_logprobs needs logprobs to be true", "top_logprobs")
            return None
        return body.top_logprobs or 0

    async def _rendered(self) -> Prompt:
        body = self.body
        if body.continue_final_message and body.add_generation_prompt:
            if "add_generation_prompt" in body.model_fields_set:
                raise bad_request(
                    "continue_final_message and add_generation_prompt exclude each other",
                    "continue_final_message",
                )
            body.add_generation_prompt = False
        messages = conversation(body.messages)
        text = self.service.rendered(
            messages,
            add_generation_prompt=body.add_generation_prompt,
            continue_final_message=body.continue_final_message,
            tools=tool_descriptions(body) if self.tools.shown else None,
            documents=body.documents,
            chat_template=body.chat_template,
            reasoning_effort=body.reasoning_effort,
            **(body.chat_template_kwargs or {}),
        )
        return await self.service.encoded(
            text,
            add_special_tokens=bool(body.add_special_tokens),
            keep=body.truncate_prompt_tokens,
            salt=body.cache_salt,
        )

    # -- while it comes -----------------------------------------------------------------------

    async def pieces(self) -> AsyncGenerator[TurnPiece]:
        """What comes, choice by choice."""
        body = self.body
        source = outputs(
            self.service, self.id, [self.prompt], self.params, body.priority, body.user
        )
        async with aclosing(source):
            async for _, output in source:
                self.usage.note(0, output)
                for done in output.outputs:
                    yield self._taken(output, done)

    def _taken(self, output: RequestOutput, done: CompletionOutput) -> TurnPiece:
        reader = self._readers.get(done.index)
        if reader is None:
            reader = self._readers[done.index] = self._new_reader()
        piece = reader.feed(done.text)
        if done.finish_reason is not None:
            rest = reader.finish()
            piece = Piece(
                piece.reasoning + rest.reasoning,
                piece.content + rest.content,
                piece.calls + rest.calls,
            )
        if piece.calls:
            self._called.add(done.index)
        return TurnPiece(output, done, piece, self._finish_reason(done))

    def _finish_reason(self, done: CompletionOutput) -> str | None:
        named = not isinstance(self.body.tool_choice, str | None)
        if done.finish_reason == "stop" and done.index in self._called and not named:
            return "tool_calls"
        return done.finish_reason

    def _new_reader(self) -> AnswerReader:
        new_parser = self.tools.new_parser
        return AnswerReader(self._new_reasoning(), None if new_parser is None else new_parser())

    def _new_reasoning(self) -> ReasoningParser | None:
        name = self.service.settings.reasoning_parser
        if not name or self.tools.schema is not None:
            return None
        from perfxlm_core.serve.reasoning import reasoning_parsers

        parser = reasoning_parsers.find(name)()
        parser.prompted(self.prompt.text or "")
        return parser

    async def turns(self) -> list[Turn]:
        """The whole answer; one for each choice."""
        found: dict[int, Turn] = {}
        async with aclosing(self.pieces()) as pieces:
            async for one in pieces:
                turn = found.setdefault(one.done.index, Turn(one))
                turn.add(one.piece)
                turn.last = one
        return [found[index] for index in sorted(found)]


def conversation(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages as chat templates read them: contents are strings, arguments of calls mappings.

    Raises:
        ArgumentError: a message is malformed, or has a content that is no text.
    """
    return [_with_arguments(message) for message in parse_conversations(messages)[0]]


def _with_arguments(message: dict[str, Any]) -> dict[str, Any]:
    calls = message.get("tool_calls")
    if message.get("content") is None:
        message = {**message, "content": ""}
    if not isinstance(calls, list):
        return message
    return {**message, "tool_calls": [_call(call) for call in calls]}


def _call(call: Any) -> dict[str, Any]:  # noqa: ANN401 - what a client sent
    try:
        function = dict(call["function"])
        arguments = function.get("arguments") or "{}"
        if isinstance(arguments, str):
            function["arguments"] = json.loads(arguments)
        return {**call, "function": function}
    except (KeyError, TypeError, ValueError) as error:
        raise bad_request(
            f"a message's tool_calls has a call that is malformed ({error}); expected "
            '{"id", "type": "function", "function": {"name", "arguments": JSON text}}',
            "messages",
        ) from error
