"""What every HTTP request goes through: an id, a key, limits of size and time, counting."""

from __future__ import annotations

import asyncio
import re
import secrets
from typing import TYPE_CHECKING
from uuid import uuid4

from perfxlm_core.serve.http_errors import ApiError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from perfxlm_core.serve.service import Service

GUARDED = ("/v1", "/v2", "/inference", "/cohere")
"""Paths that need a key, if there are keys; as vLLM has it."""
_ID = re.compile(r"[\x21-\x7e]{1,128}")


class Gate:
    """Checks that need nothing but the head of a request, and watches its body come in."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app = app
        self.service = service
        self.settings = service.settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through, or answer it here."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"").decode("latin-1")
        known = _ID.fullmatch(given) is not None
        scope.setdefault("state", {})["request_id"] = given if known else None
        shown = given if known else uuid4().hex
        send = _with_header(send, b"x-request-id", shown.encode("latin-1"))
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await refusal.response()(scope, receive, send)
            return
        await self._counted(scope, Body(receive, self.settings.max_request_bytes, self), send)

    async def _counted(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count requests that generate, which are those that /load shows."""
        if scope["method"] != "POST" or not scope["path"].startswith("/v1/"):
            await self.app(scope, receive, send)
            return
        self.service.load += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.service.load -= 1

    def _refusal(self, scope: Scope, headers: dict[bytes, bytes]) -> ApiError | None:
        if not self._authorized(scope, headers.get(b"authorization", b"")):
            return ApiError(401, "Unauthorized: send the header Authorization: Bearer KEY")
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self.settings.max_request_bytes:
            return self.too_large()
        limit = self.settings.max_queued_requests
        if limit is not None and scope["method"] == "POST" and self.service.load >= limit:
            return ApiError(503, f"{self.service.load} requests are under way; try again later")
        return None

    def too_large(self) -> ApiError:
        """The refusal of a long body."""
        limit = self.settings.max_request_bytes
        return ApiError(413, f"the body is larger than {limit} bytes (--max-request-bytes)")

    def _authorized(self, scope: Scope, header: bytes) -> bool:
        keys: Sequence[str] = self.settings.api_key
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if not keys or scope["method"] == "OPTIONS" or not path.startswith(GUARDED):
            return True
        kind, _, key = header.partition(b" ")
        same = [secrets.compare_digest(key.strip(), known.encode()) for known in keys]
        return kind.lower() == b"bearer" and any(same)


class Body:
    """A request's body on its way in: not too large, not too slow."""

    def __init__(self, receive: Receive, limit: int, gate: Gate) -> None:
        self.receive = receive
        self.limit = limit
        self.gate = gate
        self.size = 0
        self.complete = False

    async def __call__(self) -> Message:
        """The next message.

        Raises:
            ApiError: the body is too large, or did not come in time.
        """
        if self.complete:
            return await self.receive()
        seconds = self.gate.settings.body_timeout
        try:
            async with asyncio.timeout(seconds):
                message = await self.receive()
        except TimeoutError:
            raise ApiError(408, f"the body did not come within {seconds:g} s") from None
        self.size += len(message.get("body", b""))
        if self.size > self.limit:
            raise self.gate.too_large()
        self.complete = not message.get("more_body", False)
        return message


def _with_header(send: Send, name: bytes, value: bytes) -> Send:
    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), (name, value)]
        await send(message)

    return wrapped
