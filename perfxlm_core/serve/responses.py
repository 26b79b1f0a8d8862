"""/v1/responses: the same turn as the chat interface's, in the responses interface's objects."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from msgspec import json

from perfxlm_core.serve.chat import Chat
from perfxlm_core.serve.http_errors import bad_request
from perfxlm_core.serve.protocol.chat import ChatRequest

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from perfxlm_core.serve.chat import Turn
    from perfxlm_core.serve.protocol.responses import ResponsesRequest
    from perfxlm_core.serve.reader import Piece
    from perfxlm_core.serve.service import Service

_SAMPLING = (
    "temperature", "top_p", "top_k", "seed", "presence_penalty", "frequency_penalty", "stop",
    "stream", "parallel_tool_calls", "priority", "request_id", "chat_template_kwargs",
)  # fmt: skip
_TEXT_PARTS = ("input_text", "output_text", "text")


def as_chat(body: ResponsesRequest, auto_tools: bool) -> ChatRequest:
    """The request as one of the chat interface.

    Args:
        auto_tools: Whether the server lets the model choose tools.

    Raises:
        ApiError: the input has an item of a kind that is not supported.
    """
    fields: dict[str, Any] = {name: getattr(body, name) for name in _SAMPLING}
    fields["messages"] = _messages(body)
    fields["max_completion_tokens"] = body.max_output_tokens
    if body.tools:
        fields["tools"] = [
            {"type": "function", "function": tool.model_dump(exclude={"type"}, exclude_none=True)}
            for tool in body.tools
        ]
        fields["tool_choice"] = _tool_choice(body, auto_tools)
    if body.reasoning is not None:
        fields["reasoning_effort"] = body.reasoning.effort
    if body.text is not None and body.text.format.type != "text":
        fields["response_format"] = _format(body)
    return ChatRequest(**fields)


def _tool_choice(body: ResponsesRequest, auto_tools: bool) -> Any:  # noqa: ANN401
    choice = body.tool_choice
    if not isinstance(choice, str):
        return {"type": "function", "function": {"name": choice.name}}
    if choice == "auto" and not auto_tools and "tool_choice" not in body.model_fields_set:
        return "none"
    return choice


def _format(body: ResponsesRequest) -> dict[str, Any]:
    assert body.text is not None
    wanted = body.text.format
    if wanted.type == "json_object":
        return {"type": "json_object"}
    schema = {"name": wanted.name, "schema": wanted.schema_, "strict": wanted.strict}
    return {"type": "json_schema", "json_schema": schema}


def _messages(body: ResponsesRequest) -> list[dict[str, Any]]:
    messages = [{"role": "system", "content": body.instructions}] if body.instructions else []
    if isinstance(body.input, str):
        return [*messages, {"role": "user", "content": body.input}]
    return [*messages, *(_message(item) for item in body.input if item.get("type") != "reasoning")]


def _message(item: dict[str, Any]) -> dict[str, Any]:
    """One item of the input."""
    kind = item.get("type", "message")
    if kind == "function_call":
        function = {"name": item.get("name"), "arguments": item.get("arguments")}
        call = {"id": item.get("call_id"), "type": "function", "function": function}
        return {"role": "assistant", "content": None, "tool_calls": [call]}
    if kind == "function_call_output":
        output = item.get("output")
        return {"role": "tool", "tool_call_id": item.get("call_id"), "content": _content(output)}
    if kind != "message":
        raise bad_request(f"input has an item of type {kind!r}, which is not supported", "input")
    role = {"developer": "system"}.get(str(item.get("role")), item.get("role"))
    return {"role": role, "content": _content(item.get("content"))}


def _content(content: Any) -> Any:  # noqa: ANN401 - what a client sent
    if not isinstance(content, list):
        return content
    return [
        {**part, "type": "text"}
        if isinstance(part, dict) and part.get("type") in _TEXT_PARTS
        else part
        for part in content
    ]


class Responses:
    """One HTTP request's work."""

    def __init__(
        self, service: Service, body: ResponsesRequest, request_id: str | None = None
    ) -> None:
        self.service = service
        self.body = body
        auto_tools = service.settings.enable_auto_tool_choice
        self.chat = Chat(service, as_chat(body, auto_tools), request_id, "resp")
        self.id = self.chat.id.replace("-", "_", 1)

    async def prepare(self) -> None:
        """Check everything, so that errors come before the answer begins."""
        await self.chat.prepare()

    # -- whole --------------------------------------------------------------------------------

    async def whole(self) -> bytes:
        """The answer in one piece."""
        turn = (await self.chat.turns())[0]
        return json.encode(self._response(turn, list(self._items(turn))))

    def _items(self, turn: Turn) -> Iterator[dict[str, Any]]:
        if turn.reasoning:
            yield _reasoning(turn.reasoning)
        if turn.content or not turn.calls:
            yield _text_item(_id("msg"), turn.content)
        for call in turn.calls:
            yield _call_item(call, "completed")

    def _response(self, turn: Turn | None, items: list[dict[str, Any]]) -> dict[str, Any]:
        body, params = self.body, self.chat.params
        cut = turn is not None and turn.last.finish_reason == "length"
        done = "incomplete" if cut else "completed"
        choice = body.tool_choice if isinstance(body.tool_choice, str) else "required"
        return {
            "id": self.id,
            "created_at": self.chat.created,
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "instructions": body.instructions,
            "metadata": body.metadata,
            "model": self.service.model,
            "object": "response",
            "output": items,
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "temperature": params.temperature,
            "tool_choice": choice if body.tools else "none",
            "tools": [tool.model_dump() for tool in body.tools],
            "top_p": params.top_p,
            "background": False,
            "max_output_tokens": body.max_output_tokens,
            "max_tool_calls": None,
            "previous_response_id": None,
            "prompt": None,
            "reasoning": None if body.reasoning is None else body.reasoning.model_dump(),
            "service_tier": body.service_tier,
            "status": "in_progress" if turn is None else done,
            "text": None if body.text is None else body.text.model_dump(by_alias=True),
            "top_logprobs": None,
            "truncation": body.truncation or "disabled",
            "usage": None if turn is None else self._usage(),
            "user": body.user,
            "presence_penalty": params.presence_penalty,
            "frequency_penalty": params.frequency_penalty,
            "kv_transfer_params": None,
            "ec_transfer_params": None,
            "input_messages": None,
            "output_messages": None,
        }

    def _usage(self) -> dict[str, Any]:
        usage = self.chat.usage
        return {
            "input_tokens": usage.prompt,
            "input_tokens_details": {
                "cached_tokens": usage.cached,
                "cache_write_tokens": 0,
                "input_tokens_per_turn": [],
                "cached_tokens_per_turn": [],
            },
            "output_tokens": usage.completion,
            "output_tokens_details": {
                "reasoning_tokens": 0,
                "tool_output_tokens": 0,
                "output_tokens_per_turn": [],
                "tool_output_tokens_per_turn": [],
            },
            "total_tokens": usage.prompt + usage.completion,
        }

    # -- streamed -----------------------------------------------------------------------------

    async def chunks(self) -> AsyncGenerator[bytes]:
        """The answer as it comes, as server-sent events."""
        from perfxlm_core.serve.chat import Turn

        events = Events()
        items = OpenItems(events)
        turn = None
        async with aclosing(self.chat.pieces()) as pieces:
            async for one in pieces:
                if turn is None:
                    turn = Turn(one)
                    for kind in ("response.created", "response.in_progress"):
                        yield events.of(kind, response=self._response(None, []))
                turn.add(one.piece)
                turn.last = one
                for event in items.add(one.piece):
                    yield event
        assert turn is not None
        for event in items.close(empty_text=not turn.calls):
            yield event
        yield events.of("response.completed", response=self._response(turn, items.done))


class Events:
    """Numbers the events of a stream."""

    def __init__(self) -> None:
        self._number = 0

    def of(self, kind: str, **fields: Any) -> bytes:  # noqa: ANN401 - the event's
        """An event, as it is sent."""
        event = {**fields, "sequence_number": self._number, "type": kind}
        self._number += 1
        return b"event: " + kind.encode() + b"\ndata: " + json.encode(event) + b"\n\n"


class OpenItems:
    """Output items of a stream: opened by the first piece of their kind, closed by another's.

    Attributes:
        done: Items that are closed.
    """

    def __init__(self, events: Events) -> None:
        self.done: list[dict[str, Any]] = []
        self._events = events
        self._kind = ""
        self._id = ""
        self._text = ""
        self._call: dict[str, Any] = {}

    def add(self, piece: Piece) -> Iterator[bytes]:
        """The events of a piece."""
        if piece.reasoning:
            yield from self._more("reasoning", piece.reasoning)
        if piece.content:
            yield from self._more("text", piece.content)
        for call in piece.calls:
            if call.name is not None:
                yield from self.close()
                function = {"name": call.name, "arguments": ""}
                self._call = {"id": call.id, "function": function}
                yield from self._open("call")
            if call.arguments:
                yield from self._more("call", call.arguments)

    def _more(self, kind: str, text: str) -> Iterator[bytes]:
        if self._kind != kind:
            yield from self.close()
            yield from self._open(kind)
        self._text += text
        where = {"item_id": self._id, "output_index": len(self.done), "delta": text}
        if kind == "call":
            yield self._events.of("response.function_call_arguments.delta", **where)
        elif kind == "reasoning":
            yield self._events.of("response.reasoning_text.delta", content_index=0, **where)
        else:
            yield self._events.of(
                "response.output_text.delta", content_index=0, logprobs=[], **where
            )

    def _open(self, kind: str) -> Iterator[bytes]:
        self._kind, self._text = kind, ""
        self._id = _id({"text": "msg", "reasoning": "rs", "call": "fc"}[kind])
        item = {**self._item(), "status": "in_progress"}
        if kind != "call":
            item["content"] = []
        added = "response.output_item.added"
        yield self._events.of(added, item=item, output_index=len(self.done))
        if kind == "text":
            yield self._events.of("response.content_part.added", part=_part("", []), **self._where)

    @property
    def _where(self) -> dict[str, Any]:
        return {"content_index": 0, "item_id": self._id, "output_index": len(self.done)}

    def _item(self) -> dict[str, Any]:
        if self._kind == "call":
            call = {**self._call, "function": {**self._call["function"], "arguments": self._text}}
            return {**_call_item(call, "completed"), "id": self._id}
        if self._kind == "reasoning":
            return {**_reasoning(self._text), "id": self._id}
        return _text_item(self._id, self._text)

    def close(self, empty_text: bool = False) -> Iterator[bytes]:
        """The events that end the open item.

        Args:
            empty_text: Open an empty text if there was nothing at all.
        """
        if not self._kind and empty_text and not self.done:
            yield from self._open("text")
        if not self._kind:
            return
        of, where = self._events.of, self._where
        if self._kind == "text":
            yield of("response.output_text.done", text=self._text, logprobs=[], **where)
            yield of("response.content_part.done", part=_part(self._text, None), **where)
        elif self._kind == "reasoning":
            yield of("response.reasoning_text.done", text=self._text, **where)
        else:
            del where["content_index"]
            done = "response.function_call_arguments.done"
            yield of(done, arguments=self._text, name=self._call["function"]["name"], **where)
        item = self._item()
        yield of("response.output_item.done", item=item, output_index=len(self.done))
        self.done.append(item)
        self._kind = ""


def _id(prefix: str) -> str:
    return f"{prefix}_{uuid4().hex[:16]}"


def _part(text: str, logprobs: list[Any] | None) -> dict[str, Any]:
    return {"annotations": [], "text": text, "type": "output_text", "logprobs": logprobs}


def _text_item(name: str, text: str) -> dict[str, Any]:
    return {
        "id": name,
        "content": [_part(text, None)],
        "role": "assistant",
        "status": "completed",
        "type": "message",
        "phase": None,
    }


def _call_item(call: dict[str, Any], status: str) -> dict[str, Any]:
    return {
        "id": _id("fc"),
        "type": "function_call",
        "call_id": call["id"],
        "name": call["function"]["name"],
        "arguments": call["function"]["arguments"],
        "status": status,
    }


def _reasoning(text: str) -> dict[str, Any]:
    content = [{"type": "reasoning_text", "text": text}]
    return {
        "id": _id("rs"),
        "type": "reasoning",
        "summary": [],
        "content": content,
        "encrypted_content": None,
        "status": "completed",
    }
