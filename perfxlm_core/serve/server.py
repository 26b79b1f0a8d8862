"""The server's life: the engine loads, HTTP is served, what is under way is finished."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from typing import TYPE_CHECKING

import uvicorn

from perfxlm_core.engine.arguments import DEFAULT_MODEL
from perfxlm_core.errors import ArgumentError
from perfxlm_core.serve.app import build_app
from perfxlm_core.serve.client import AsyncLLM
from perfxlm_core.serve.service import Service

if TYPE_CHECKING:
    from collections.abc import Iterator

    from perfxlm_core.engine.engine_args import AsyncEngineArgs
    from perfxlm_core.serve.settings import ServerSettings

ENGINE_DIED = 1
"""Exit code when the engine process died and was not to be started again."""
DEATH_NOTICE = 2.0
"""Seconds for which a server without an engine still answers, with errors."""
KEEP_ALIVE = 5
"""Seconds that an idle connection is kept."""

log = logging.getLogger("perfxlm.server")


def serve(engine_args: AsyncEngineArgs, settings: ServerSettings) -> int:
    """Serve until told to end; the exit code.

    Raises:
        PerfxlmError: the engine cannot start, with its own reason.
    """
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    config = engine_args.create_engine_config()
    listening = _listening(settings)
    try:
        llm = AsyncLLM(config, restart=settings.restart_engine)
        try:
            root = config.model or DEFAULT_MODEL
            service = Service.on(llm, settings, root)
            return _run(Server(_uvicorn(service)), service, listening)
        finally:
            llm.shutdown()
    finally:
        listening.close()


def _listening(settings: ServerSettings) -> socket.socket:
    """The socket, bound before the model is loaded, so that a port in use is told at once."""
    try:
        if settings.uds is not None:
            found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            found.bind(settings.uds)
            return found
        host = settings.host or ""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        found = socket.socket(family, socket.SOCK_STREAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host, settings.port))
        return found
    except OSError as error:
        where = settings.uds or f"{settings.host or '*'}:{settings.port}"
        raise ArgumentError(f"cannot listen on {where}: {error.strerror}") from error


def _url(settings: ServerSettings, listening: socket.socket) -> str:
    if settings.uds is not None:
        return f"unix:{settings.uds}"
    host, port = listening.getsockname()[:2]
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host
    scheme = "https" if settings.ssl_certfile else "http"
    return f"{scheme}://{f'[{shown}]' if ':' in shown else shown}:{port}"


def _uvicorn(service: Service) -> uvicorn.Config:
    settings = service.settings
    return uvicorn.Config(
        build_app(service),
        log_level=settings.uvicorn_log_level,
        access_log=not settings.disable_uvicorn_access_log,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=int(settings.drain_timeout),
        ssl_keyfile=settings.ssl_keyfile,
        ssl_certfile=settings.ssl_certfile,
        ssl_ca_certs=settings.ssl_ca_certs,
        server_header=False,
        backlog=2048,
    )


class Server(uvicorn.Server):
    """Ends with exit code 0 when asked to, once requests under way are done.

    The first SIGTERM or SIGINT begins that, the second ends at once.
    """

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals while serving, and do not raise them again afterwards."""
        before = {n: signal.signal(n, self.handle_exit) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _run(server: Server, service: Service, listening: socket.socket) -> int:
    died = False

    def end() -> None:
        server.should_exit = True

    def on_death() -> None:
        nonlocal died
        died = True
        asyncio.get_running_loop().call_later(DEATH_NOTICE, end)

    async def run() -> None:
        service.llm.on_death = on_death
        service.llm.listen()
        names = ", ".join(service.names)
        log.info("serving %s on %s", names, _url(service.settings, listening))
        await server.serve(sockets=[listening])

    config = server.config
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(run())
    return ENGINE_DIED if died else 0
