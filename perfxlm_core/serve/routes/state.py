"""Routes about the server itself, and about tokens."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from perfxlm_core import __version__
from perfxlm_core.serve.chat import conversation
from perfxlm_core.serve.http_errors import ApiError, bad_request
from perfxlm_core.serve.protocol.completions import DetokenizeRequest, TokenizeRequest
from perfxlm_core.serve.routes.answers import ERRORS, checked, only_json, service_of
from perfxlm_core.serve.service import Service

router = APIRouter(responses=ERRORS)

_METRICS = "text/plain; version=0.0.4; charset=utf-8"


@router.get("/health")
async def health(request: Request) -> Response:
    """200 while the engine lives, else 503."""
    await service_of(request).llm.check_health()
    return Response()


@router.get("/ping", operation_id="ping")
@router.post("/ping", operation_id="ping_by_post")
async def ping(request: Request) -> Response:
    """The same as /health."""
    return await health(request)


@router.get("/version")
async def version() -> dict[str, str]:
    """The version of perfxlm."""
    return {"version": __version__}


@router.get("/load")
async def load(request: Request) -> dict[str, int]:
    """Requests under way."""
    return {"server_load": service_of(request).load}


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Statistics for Prometheus."""
    return Response(service_of(request).metrics.page(), media_type=_METRICS)


@router.get("/v1/models")
async def models(request: Request) -> dict[str, Any]:
    """The model, once under each of its names."""
    service = service_of(request)
    return {"object": "list", "data": [_model(service, name) for name in service.names]}


def _model(service: Service, name: str) -> dict[str, Any]:
    allowed = ("sampling", "logprobs", "view")
    permission = {
        "id": f"modelperm-{uuid4().hex[:16]}",
        "object": "model_permission",
        "created": service.created,
        "allow_create_engine": False,
        **{f"allow_{what}": True for what in allowed},
        "allow_search_indices": False,
        "allow_fine_tuning": False,
        "organization": "*",
        "group": None,
        "is_blocking": False,
    }
    return {
        "id": name,
        "object": "model",
        "created": service.created,
        "owned_by": "perfxlm",
        "root": service.root,
        "parent": None,
        "max_model_len": service.llm.max_model_len,
        "permission": [permission],
    }


@router.get("/v1/models/{name:path}")
async def model(name: str, request: Request) -> dict[str, Any]:
    """The model under one of its names."""
    service = service_of(request)
    if name not in service.names:
        raise ApiError(404, f"The model `{name}` does not exist.", "model")
    return _model(service, name)


@router.post("/tokenize", dependencies=[Depends(only_json)])
async def tokenize(body: TokenizeRequest, request: Request) -> dict[str, Any]:
    """The tokens of a text or a conversation."""
    service, _ = checked(request, body)
    if (body.prompt is None) == (body.messages is None):
        raise bad_request("give either prompt or messages", "prompt")
    special = body.add_special_tokens
    if body.messages is not None:
        text, special = _rendered(service, body), bool(special)
    else:
        text, special = body.prompt or "", special is not False
    ids = service.tokenizer.encode(text, add_special_tokens=special)
    names = service.token_names(ids) if body.return_token_strs else None
    limit = service.llm.max_model_len
    return {"count": len(ids), "max_model_len": limit, "tokens": ids, "token_strs": names}


def _rendered(service: Service, body: TokenizeRequest) -> str:
    return service.rendered(
        conversation(body.messages or []),
        add_generation_prompt=body.add_generation_prompt and not body.continue_final_message,
        continue_final_message=body.continue_final_message,
        tools=body.tools,
        chat_template=body.chat_template,
        **(body.chat_template_kwargs or {}),
    )


@router.post("/detokenize", dependencies=[Depends(only_json)])
async def detokenize(body: DetokenizeRequest, request: Request) -> dict[str, str]:
    """The text of tokens."""
    service, _ = checked(request, body)
    size = service.llm.admission.vocab_size
    outside = [i for i in body.tokens if i >= size]
    if outside:
        raise bad_request(f"tokens has {outside[0]}; token ids go from 0 to {size - 1}", "tokens")
    return {"prompt": service.tokenizer.decode(body.tokens, skip_special_tokens=False)}


@router.post("/v1/load_lora_adapter")
@router.post("/v1/unload_lora_adapter", operation_id="unload_lora_adapter")
async def lora_adapter(request: Request) -> Response:
    """Absent: there are no adapters."""
    raise ApiError(404, f"{request.url.path} is not there: this server has no LoRA adapters", None)
