"""Routes that change the engine's state, for trusted clients only."""

from __future__ import annotations

from fastapi import APIRouter, Request

from perfxlm_core.serve.routes.answers import ERRORS, service_of

router = APIRouter(responses=ERRORS)


@router.post("/reset_prefix_cache")
async def reset_prefix_cache(request: Request) -> dict[str, bool]:
    """Forget every cached prefix, unless requests run."""
    return {"success": await service_of(request).llm.reset_prefix_cache()}


@router.get("/is_sleeping")
async def is_sleeping(request: Request) -> dict[str, bool]:
    """Whether the engine sleeps; it never does."""
    return {"is_sleeping": await service_of(request).llm.is_sleeping()}
