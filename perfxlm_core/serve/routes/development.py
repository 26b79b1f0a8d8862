"""Routes that change the engine's state, for trusted clients only."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from perfxlm_core.serve.routes.answers import ERRORS, service_of

router = APIRouter(responses=ERRORS)


@router.post("/reset_prefix_cache")
async def reset_prefix_cache(request: Request) -> dict[str, bool]:
    """Forget every cached prefix, unless requests run."""
    return {"success": await service_of(request).llm.reset_prefix_cache()}


@router.post("/sleep")
async def sleep(request: Request, level: int = 1, mode: str = "abort") -> Response:
    """Give the model's memory back; requests wait until the engine is woken."""
    await service_of(request).llm.sleep(level, mode)
    return Response()


@router.post("/wake_up")
async def wake_up(request: Request, tags: Annotated[list[str] | None, Query()] = None) -> Response:
    """Load again what sleep gave back, whatever the tags."""
    await service_of(request).llm.wake_up(tags)
    return Response()


@router.get("/is_sleeping")
async def is_sleeping(request: Request) -> dict[str, bool]:
    """Whether the engine sleeps."""
    return {"is_sleeping": await service_of(request).llm.is_sleeping()}
