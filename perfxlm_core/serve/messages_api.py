"""/v1/messages: the same turn as the chat interface's, in Anthropic's objects."""

from __future__ import annotations

import json as json_text
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from msgspec import json

from perfxlm_core.serve.chat import Chat
from perfxlm_core.serve.http_errors import bad_request
from perfxlm_core.serve.protocol.chat import ChatRequest

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from perfxlm_core.serve.chat import Turn, TurnPiece
    from perfxlm_core.serve.protocol.messages import CountTokensRequest, MessagesRequest
    from perfxlm_core.serve.reader import Piece
    from perfxlm_core.serve.service import Service

_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


def as_chat(body: CountTokensRequest) -> ChatRequest:
    """The request as one of the chat interface.

    Raises:
        ApiError: a message has content of a kind that is not supported.
    """
    fields: dict[str, Any] = {
        "messages": list(_messages(body)),
        "chat_template_kwargs": body.chat_template_kwargs,
    }
    if body.tools:
        fields["tools"] = [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description or "",
                    "parameters": tool.input_schema,
                },
            }
            for tool in body.tools
        ]
        fields |= _tool_choice(body)
    return ChatRequest(**fields)


def _sampled(body: MessagesRequest) -> ChatRequest:
    chat = as_chat(body)
    chat.max_tokens = body.max_tokens
    chat.stop = body.stop_sequences
    chat.stream = body.stream
    chat.temperature, chat.top_p, chat.top_k = body.temperature, body.top_p, body.top_k
    chat.cache_salt = body.cache_salt
    return chat


def _tool_choice(body: CountTokensRequest) -> dict[str, Any]:
    choice = body.tool_choice
    if choice is None:
        return {}
    parallel = {"parallel_tool_calls": not choice.disable_parallel_tool_use}
    if choice.type == "tool":
        function = {"type": "function", "function": {"name": choice.name or ""}}
        return {"tool_choice": function, **parallel}
    return {"tool_choice": {"any": "required"}.get(choice.type, choice.type), **parallel}


def _messages(body: CountTokensRequest) -> Iterator[dict[str, Any]]:
    if body.system:
        yield {"role": "system", "content": _text(body.system)}
    for message in body.messages:
        if isinstance(message.content, str):
            yield {"role": message.role, "content": message.content}
        else:
            yield from _blocks(message.role, message.content)


def _text(content: Any) -> str:  # noqa: ANN401 - what a client sent
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "\n".join(str(p.get("text", "")) for p in parts if isinstance(p, dict))


def _blocks(role: str, blocks: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """A turn's blocks as messages: results of tools come first, as answers of their own."""
    texts, calls = [], []
    for block in blocks:
        kind = block.get("type")
        if kind == "text":
            texts.append(str(block.get("text", "")))
        elif kind == "tool_use":
            arguments = json_text.dumps(block.get("input") or {})
            function = {"name": block.get("name"), "arguments": arguments}
            calls.append({"id": block.get("id"), "type": "function", "function": function})
        elif kind == "tool_result":
            answer = _text(block.get("content"))
            yield {"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": answer}
        elif kind not in ("thinking", "redacted_thinking"):
            raise bad_request(
                f"a message has a block of type {kind!r}, which is not supported", "messages"
            )
    if texts or calls:
        message: dict[str, Any] = {"role": role, "content": "\n".join(texts)}
        yield {**message, "tool_calls": calls} if calls else message


class Messages:
    """One HTTP request's work."""

    def __init__(
        self, service: Service, body: MessagesRequest, request_id: str | None = None
    ) -> None:
        self.service = service
        self.chat = Chat(service, _sampled(body), request_id, "msg")

    async def prepare(self) -> None:
        """Check everything, so that errors come before the answer begins."""
        await self.chat.prepare()

    def _usage(self) -> dict[str, int]:
        usage = self.chat.usage
        return {
            "input_tokens": usage.prompt,
            "output_tokens": usage.completion,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": usage.cached,
        }

    @staticmethod
    def _ending(one: TurnPiece) -> dict[str, Any]:
        if isinstance(one.done.stop_reason, str):
            return {"stop_reason": "stop_sequence", "stop_sequence": one.done.stop_reason}
        reason = _REASONS.get(one.finish_reason or "", one.finish_reason)
        return {"stop_reason": reason, "stop_sequence": None}

    async def whole(self) -> bytes:
        """The answer in one piece."""
        turn = (await self.chat.turns())[0]
        ending = self._ending(turn.last)
        if turn.calls and ending["stop_reason"] == "end_turn":
            ending["stop_reason"] = "tool_use"
        return json.encode(
            {
                "id": self.chat.id,
                "type": "message",
                "role": "assistant",
                "content": list(_content(turn)),
                "model": self.service.model,
                **ending,
                "usage": self._usage(),
            }
        )

    async def chunks(self) -> AsyncGenerator[bytes]:
        """The answer as it comes, as server-sent events."""
        blocks, begun = OpenBlocks(), False
        async with aclosing(self.chat.pieces()) as pieces:
            async for one in pieces:
                if not begun:
                    begun = True
                    yield event("message_start", message=self._empty())
                for chunk in blocks.add(one.piece):
                    yield chunk
                if one.finish_reason is not None:
                    for chunk in blocks.close():
                        yield chunk
                    ending = self._ending(one)
                    if blocks.called and ending["stop_reason"] == "end_turn":
                        ending["stop_reason"] = "tool_use"
                    yield event("message_delta", delta=ending, usage=self._usage())
        yield event("message_stop")

    def _empty(self) -> dict[str, Any]:
        return {
            "id": self.chat.id,
            "type": "message",
            "role": "assistant",
            "content": [],
            "model": self.service.model,
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": self.chat.usage.prompt, "output_tokens": 0},
        }


def _content(turn: Turn) -> Iterator[dict[str, Any]]:
    if turn.reasoning:
        yield {"type": "thinking", "thinking": turn.reasoning, "signature": ""}
    if turn.content or not turn.calls:
        yield {"type": "text", "text": turn.content}
    for call in turn.calls:
        function = call["function"]
        try:
            arguments = json_text.loads(function["arguments"] or "{}")
        except ValueError:
            arguments = {"": function["arguments"]}  # cut short: what there is, under no name
        yield {
            "type": "tool_use", "id": call["id"], "name": function["name"], "input": arguments,
        }  # fmt: skip


def _tool_use(name: str | None, function: str | None, arguments: Any) -> dict[str, Any]:  # noqa: ANN401
    return {"type": "tool_use", "id": name, "name": function, "input": arguments}


class OpenBlocks:
    """Content blocks of a stream: opened by the first piece of their kind, closed by another's.

    Attributes:
        called: Whether there was a call of a tool.
    """

    def __init__(self) -> None:
        self.called = False
        self._kind = ""
        self._index = 0

    def add(self, piece: Piece) -> Iterator[bytes]:
        """The events of a piece."""
        if piece.reasoning:
            thinking = {"type": "thinking", "thinking": ""}
            yield from self._open(thinking)
            yield self._delta({"type": "thinking_delta", "thinking": piece.reasoning})
        if piece.content:
            yield from self._open({"type": "text", "text": ""})
            yield self._delta({"type": "text_delta", "text": piece.content})
        for call in piece.calls:
            if call.name is not None:
                self.called = True
                yield from self.close()
                use: dict[str, Any] = {
                    "type": "tool_use",
                    "id": call.id,
                    "name": call.name,
                    "input": {},
                }
                yield from self._open(use)
            if call.arguments:
                delta = {"type": "input_json_delta", "partial_json": call.arguments}
                yield self._delta(delta)

    def _open(self, block: dict[str, Any]) -> Iterator[bytes]:
        if self._kind == block["type"]:
            return
        yield from self.close()
        self._kind = block["type"]
        yield event("content_block_start", content_block=block, index=self._index)

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return event("content_block_delta", delta=delta, index=self._index)

    def close(self) -> Iterator[bytes]:
        """The event that ends the open block, if one is open."""
        if self._kind:
            self._kind = ""
            yield event("content_block_stop", index=self._index)
            self._index += 1


def event(kind: str, **fields: Any) -> bytes:  # noqa: ANN401 - the event's
    """An event, as it is sent."""
    body = json.encode({"type": kind, **fields})
    return b"event: " + kind.encode() + b"\ndata: " + body + b"\n\n"
