"""Routes that generate text."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from perfxlm_core.serve.chat import Chat
from perfxlm_core.serve.chat_writer import ChatWriter
from perfxlm_core.serve.completions import Completions
from perfxlm_core.serve.http_errors import ApiError
from perfxlm_core.serve.messages_api import Messages, as_chat
from perfxlm_core.serve.protocol.chat import ChatRequest
from perfxlm_core.serve.protocol.completions import CompletionRequest, EmbeddingRequest
from perfxlm_core.serve.protocol.messages import CountTokensRequest, MessagesRequest
from perfxlm_core.serve.protocol.responses import ResponsesRequest
from perfxlm_core.serve.responses import Responses
from perfxlm_core.serve.routes.answers import ERRORS, answer, checked, only_json, request_id

router = APIRouter(dependencies=[Depends(only_json)], responses=ERRORS)


@router.post("/v1/completions")
async def completions(body: CompletionRequest, request: Request) -> Response:
    """Go on with prompts."""
    service, unknown = checked(request, body)
    work = Completions(service, body, request_id(request))
    return await answer(request, work, stream=bool(body.stream), unknown=unknown)


class _Chat(ChatWriter):
    async def prepare(self) -> None:
        await self.chat.prepare()


@router.post("/v1/chat/completions")
async def chat_completions(body: ChatRequest, request: Request) -> Response:
    """Answer a conversation."""
    service, unknown = checked(request, body)
    work = _Chat(Chat(service, body, request_id(request)))
    return await answer(request, work, stream=bool(body.stream), unknown=unknown)


@router.post("/v1/responses")
async def responses(body: ResponsesRequest, request: Request) -> Response:
    """Answer a conversation, in the responses interface's objects."""
    service, unknown = checked(request, body)
    work = Responses(service, body, request_id(request))
    stream = bool(body.stream)
    return await answer(request, work, stream=stream, unknown=unknown, last=b"")


@router.post("/v1/messages")
async def messages(body: MessagesRequest, request: Request) -> Response:
    """Answer a conversation, in Anthropic's objects."""
    service, unknown = checked(request, body)
    work = Messages(service, body, request_id(request))
    return await answer(
        request,
        work,
        stream=bool(body.stream),
        unknown=unknown,
        last=b"",
        error_event=b"event: error\n",
    )


@router.post("/v1/messages/count_tokens")
async def count_tokens(body: CountTokensRequest, request: Request) -> dict[str, object]:
    """Count the tokens of a conversation."""
    service, _ = checked(request, body)
    chat = Chat(service, as_chat(body))
    await chat.prepare()
    count = len(chat.prompt.token_ids or [])
    return {"input_tokens": count, "context_management": {"original_input_tokens": count}}


@router.post("/v1/embeddings")
async def embeddings(body: EmbeddingRequest, request: Request) -> Response:
    """Refused: the model generates text."""
    service, _ = checked(request, body)
    raise ApiError(
        404,
        f"The model `{service.model}` generates text and does not support the Embeddings API; "
        "serve an embedding model to use /v1/embeddings",
        "model",
    )
