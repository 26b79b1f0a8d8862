"""/v1/chat/completions: a turn's pieces as OpenAI's JSON, whole or as chunks."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from msgspec import json

from perfxlm_core.serve.logprobs import chat_logprobs, prompt_logprobs

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from perfxlm_core.engine.outputs import CompletionOutput
    from perfxlm_core.serve.chat import Chat, Turn, TurnPiece

_NEXT = b"}\n\n"


class ChatWriter:
    """Writes what a `Chat` gives."""

    def __init__(self, chat: Chat) -> None:
        self.chat = chat
        self.body = chat.body
        self.service = chat.service
        given = chat.body.return_tokens_as_token_ids
        self.as_ids = self.service.settings.return_tokens_as_token_ids if given is None else given

    def _logprobs(self, done: CompletionOutput) -> dict[str, Any] | None:
        if not self.body.logprobs or done.logprobs is None:
            return None
        top = self.body.top_logprobs or 0
        return chat_logprobs(done.token_ids, done.logprobs, top, bool(self.as_ids))

    # -- whole --------------------------------------------------------------------------------

    async def whole(self) -> bytes:
        """The answer in one piece."""
        turns = await self.chat.turns()
        output = turns[0].last.output
        ids = self.body.return_token_ids
        return json.encode(
            {
                "id": self.chat.id,
                "object": "chat.completion",
                "created": self.chat.created,
                "model": self.service.model,
                "choices": [self._choice(turn) for turn in turns],
                "service_tier": None,
                "system_fingerprint": self.service.fingerprint,
                "usage": self.chat.usage.whole(),
                "prompt_logprobs": prompt_logprobs(output.prompt_logprobs),
                "prompt_token_ids": output.prompt_token_ids if ids else None,
                "prompt_text": self.chat.prompt.text if self.body.return_prompt_text else None,
                "kv_transfer_params": None,
                "ec_transfer_params": None,
                "metrics": None,
            }
        )

    def _choice(self, turn: Turn) -> dict[str, Any]:
        done = turn.last.done
        return {
            "index": done.index,
            "message": self._message(turn),
            "logprobs": self._logprobs(done),
            "finish_reason": turn.last.finish_reason,
            "stop_reason": done.stop_reason,
            "token_ids": list(done.token_ids) if self.body.return_token_ids else None,
            "routed_experts": None,
        }

    def _message(self, turn: Turn) -> dict[str, Any]:
        nothing = turn.calls or (turn.reasoning and not turn.content)
        message: dict[str, Any] = {
            "role": self.service.settings.response_role,
            "content": None if nothing and not turn.content else turn.content,
            "refusal": None,
            "annotations": None,
            "audio": None,
            "function_call": None,
            "reasoning": (turn.reasoning or None) if self.body.include_reasoning else None,
        }
        if turn.calls:
            message["tool_calls"] = turn.calls
        return message

    # -- streamed -----------------------------------------------------------------------------

    async def chunks(self) -> AsyncGenerator[bytes]:
        """The answer as it comes, as server-sent events."""
        options, usage = self.body.stream_options, self.chat.usage
        include = self.service.settings.enable_force_include_usage or bool(
            options and options.include_usage
        )
        continuous = include and bool(options and options.continuous_usage_stats)
        head, begun = self._head(), set()
        counted = b""
        async with aclosing(self.chat.pieces()) as pieces:
            async for one in pieces:
                if continuous:
                    counted = b',"usage":' + json.encode(usage.brief())
                if one.done.index not in begun:
                    begun.add(one.done.index)
                    yield b"".join((head, self._first(one), counted, _NEXT))
                if chunk := self._chunk(one):
                    last = b"" if one.finish_reason is None or include else self._fingerprint()
                    yield b"".join((head, chunk, counted, last, _NEXT))
        if include:
            tail = b'],"usage":' + json.encode(usage.last())
            yield b"".join((head, tail, self._fingerprint(), _NEXT))

    def _head(self) -> bytes:
        start = {
            "id": self.chat.id,
            "object": "chat.completion.chunk",
            "created": self.chat.created,
            "model": self.service.model,
        }
        return b"data: " + json.encode(start)[:-1] + b',"choices":['

    def _fingerprint(self) -> bytes:
        return b',"system_fingerprint":' + json.encode(self.service.fingerprint)

    def _first(self, one: TurnPiece) -> bytes:
        ids = one.output.prompt_token_ids if self.body.return_token_ids else None
        text = self.chat.prompt.text if self.body.return_prompt_text else None
        return b"".join(
            (
                b'{"index":%d,"delta":{"role":' % one.done.index,
                json.encode(self.service.settings.response_role),
                b',"content":""},"logprobs":null,"finish_reason":null}],"prompt_token_ids":',
                json.encode(ids),
                b',"prompt_text":',
                json.encode(text),
            )
        )

    def _chunk(self, one: TurnPiece) -> bytes:
        """One choice; empty if there is nothing to say yet."""
        done, ids = one.done, self.body.return_token_ids
        delta = self._delta(one)
        if delta == b"{}" and one.finish_reason is None and not (ids or self.body.logprobs):
            return b""
        logprobs = self._logprobs(done)
        ending = (
            b"null"
            if one.finish_reason is None
            else json.encode(one.finish_reason) + b',"stop_reason":' + json.encode(done.stop_reason)
        )
        return b"".join(
            (
                b'{"index":%d,"delta":' % done.index,
                delta,
                b',"logprobs":',
                b"null" if logprobs is None else json.encode(logprobs),
                b',"finish_reason":',
                ending,
                b',"token_ids":',
                _ids(done.token_ids) if ids else b"null",
                b"}]",
            )
        )

    def _delta(self, one: TurnPiece) -> bytes:
        piece = one.piece
        if piece.content and not piece.calls and not piece.reasoning:
            return b'{"content":' + json.encode(piece.content) + b"}"
        delta: dict[str, Any] = {}
        if piece.reasoning and self.body.include_reasoning:
            delta["reasoning"] = piece.reasoning
        if piece.calls:
            delta["content"] = piece.content or None
            delta["tool_calls"] = [call.as_openai() for call in piece.calls]
        elif piece.content:
            delta["content"] = piece.content
        return json.encode(delta)


def _ids(token_ids: Sequence[int]) -> bytes:
    return json.encode(list(token_ids))
