"""Requests of one HTTP request: run together, ended together when the client goes away."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.responses import Response

from perfxlm_core.serve.http_errors import ApiError, api_error
from perfxlm_core.serve.service import new_id

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Coroutine, Sequence

    from starlette.types import Receive, Scope, Send

    from perfxlm_core.engine.outputs import RequestOutput
    from perfxlm_core.engine.params import SamplingParams
    from perfxlm_core.engine.prompts import Prompt
    from perfxlm_core.serve.service import Service

T = TypeVar("T")

DONE = b"data: [DONE]\n\n"


async def outputs(
    service: Service,
    request_id: str,
    prompts: Sequence[Prompt],
    params: SamplingParams,
    priority: int = 0,
    client: str | None = None,
) -> AsyncGenerator[tuple[int, RequestOutput]]:
    """Complete all prompts at once; pairs of a prompt's place and what came for it.

    Args:
        request_id: A client's, which several requests may have.
        client: Whose they are; requests of different clients are started in turns.
    """
    sources = [
        service.llm.generate(
            prompt, params, new_id(request_id), priority=priority, client=client or ""
        )
        for prompt in prompts
    ]
    if len(sources) == 1:
        async with contextlib.aclosing(sources[0]) as source:
            async for output in source:
                yield 0, _whole(output)
    else:
        async for pair in _merged(sources):
            yield pair


async def _merged(
    sources: Sequence[AsyncGenerator[RequestOutput]],
) -> AsyncGenerator[tuple[int, RequestOutput]]:
    queue: asyncio.Queue[tuple[int, RequestOutput]] = asyncio.Queue()

    async def read(place: int, source: AsyncGenerator[RequestOutput]) -> None:
        async with contextlib.aclosing(source):
            async for output in source:
                await queue.put((place, _whole(output)))

    tasks = [asyncio.create_task(read(i, source)) for i, source in enumerate(sources)]
    everything = asyncio.gather(*tasks)
    try:
        while not (everything.done() and queue.empty()):
            item = asyncio.ensure_future(queue.get())
            either: set[asyncio.Future[Any]] = {item, everything}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if item.done():
                yield item.result()
            else:
                item.cancel()
        everything.result()  # raises what a reader raised
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, everything, return_exceptions=True)


def _whole(output: RequestOutput) -> RequestOutput:
    """The output, unless the request has failed.

    Raises:
        ApiError: it has.
    """
    if output.error is not None:
        raise ApiError(500 if output.engine_failed else 400, output.error)
    return output


async def while_connected(receive: Receive, work: Coroutine[None, None, T], timeout: float) -> T:
    """Do the work, unless the client goes away first.

    Args:
        timeout: Seconds; 0 for any time.

    Raises:
        asyncio.CancelledError: the client has gone.
        TimeoutError: it took too long.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(receive))
    either: set[asyncio.Future[Any]] = {task, gone}
    try:
        async with asyncio.timeout(timeout or None):
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        gone.cancel()
        task.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


class ClientGone(ApiError):
    """Nobody reads the answer any more; nginx's status for it."""

    def __init__(self) -> None:
        super().__init__(499, "the client has closed the connection")


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Server-sent events, as the chunks of a generator.

    The first chunk is awaited before anything is sent, so that a request that fails at once gets
    a status. Later errors are events.

    Args:
        last: What ends the stream.
        error_event: The `event:` line of an error, for interfaces that name their events.
    """

    def __init__(
        self,
        chunks: AsyncGenerator[bytes],
        *,
        timeout: float = 0.0,
        last: bytes = DONE,
        error_event: bytes = b"",
        headers: dict[str, str] | None = None,
    ) -> None:
        self.chunks = chunks
        self.timeout = timeout
        self.last = last
        self.error_event = error_event
        self.status_code = 200
        self.background = None
        self.body = b""
        self.media_type = "text/event-stream"
        self.init_headers({**(headers or {}), "cache-control": "no-cache"})
        self.raw_headers = [h for h in self.raw_headers if h[0] != b"content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream until it ends or the client goes."""
        with contextlib.suppress(ClientGone):
            await while_connected(receive, self._send(scope, receive, send), 0)

    async def _send(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False
        try:
            async with asyncio.timeout(self.timeout or None), contextlib.aclosing(self.chunks):
                async for chunk in self.chunks:
                    if not started:
                        await send(self._start)
                        started = True
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
        except Exception as error:
            failed = api_error(error)
            if not started:
                await failed.response()(scope, receive, send)
                return
            event = self.error_event + b"data: " + failed.body() + b"\n\n"
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": self.last, "more_body": False})

    @property
    def _start(self) -> dict[str, object]:
        return {
            "type": "http.response.start",
            "status": self.status_code,
            "headers": self.raw_headers,
        }
