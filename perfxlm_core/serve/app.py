"""The HTTP interface, put together."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from perfxlm_core import __version__
from perfxlm_core.serve import page
from perfxlm_core.serve.http_errors import add_handlers
from perfxlm_core.serve.middleware import Gate
from perfxlm_core.serve.page import routes as page_routes
from perfxlm_core.serve.routes import development, generation, state

if TYPE_CHECKING:
    from perfxlm_core.serve.service import Service

DEVELOPMENT = "VLLM_SERVER_DEV_MODE"
"""Environment variable: set to 1, there are routes that change the engine's state."""


def build_app(service: Service) -> FastAPI:
    """The application; `service` is found in `app.state.service`."""
    settings = service.settings
    docs = not settings.disable_fastapi_docs
    app = FastAPI(
        title="perfxlm",
        version=__version__,
        root_path=settings.root_path,
        docs_url="/docs" if docs else None,
        redoc_url="/redoc" if docs else None,
        openapi_url="/openapi.json" if docs else None,
        middleware=[
            Middleware(
                CORSMiddleware,
                allow_origins=settings.allowed_origins,
                allow_methods=settings.allowed_methods,
                allow_headers=settings.allowed_headers,
                allow_credentials=settings.allow_credentials,
            ),
            Middleware(Gate, service=service),
        ],
    )
    app.state.service = service
    app.include_router(state.router)
    app.include_router(generation.router)
    if os.environ.get(DEVELOPMENT) == "1":
        app.include_router(development.router)
    app.router.routes.extend(page.routes())
    app.router.routes.extend(page_routes())
    add_handlers(app)
    return app
