"""How routes answer: what they take from a request, and the two forms of an answer."""

from __future__ import annotations

import email.message
from typing import TYPE_CHECKING, Any, Protocol

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from starlette.responses import Response

from perfxlm_core.serve.gathering import DONE, EventStream, while_connected
from perfxlm_core.serve.http_errors import bad_request

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from perfxlm_core.serve.protocol.fields import Body
    from perfxlm_core.serve.service import Service

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {
        "description": text,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["error"],
                    "properties": {
                        "error": {
                            "type": "object",
                            "required": ["message", "type", "param", "code"],
                            "properties": {
                                "message": {"type": "string"},
                                "type": {"type": "string"},
                                "param": {"type": ["string", "null"]},
                                "code": {"type": "integer"},
                            },
                        }
                    },
                }
            }
        },
    }
    for status, text in (
        (400, "The request cannot be used"),
        (401, "No valid key"),
        (404, "No such model or route"),
        (413, "The body is too large"),
        (500, "The engine has failed"),
        (503, "The engine is not there, or busy"),
    )
}
IGNORED = "x-perfxlm-ignored-fields"
"""Header that names the fields of a body that nobody reads."""


class Work(Protocol):
    """What a route does for one request."""

    async def prepare(self) -> None:
        """Check everything."""
        ...

    async def whole(self) -> bytes:
        """The answer in one piece."""
        ...

    def chunks(self) -> AsyncGenerator[bytes]:
        """The answer as it comes."""
        ...


def service_of(request: Request) -> Service:
    """The server's parts."""
    service: Service = request.app.state.service
    return service


def request_id(request: Request) -> str | None:
    """What the client calls the request, if it does."""
    name: str | None = request.scope["state"]["request_id"]
    return name


async def only_json(request: Request) -> None:
    """Dependency: refuse bodies of other types.

    Raises:
        RequestValidationError: it is one.
    """
    message = email.message.Message()
    message["content-type"] = request.headers.get("content-type", "application/json")
    if message.get_content_type() != "application/json":
        raise RequestValidationError(
            [
                {
                    "type": "value_error",
                    "loc": ("header", "content-type"),
                    "msg": "Unsupported Media Type: Only 'application/json' is allowed",
                    "input": message.get_content_type(),
                }
            ]
        )


def ignored_header(unknown: list[str]) -> dict[str, str]:
    """The header that names them, in characters that headers may have."""
    if not unknown:
        return {}
    names = ", ".join(unknown[:20]).encode("ascii", "backslashreplace").decode()
    return {IGNORED: "".join(c if c.isprintable() else "?" for c in names)[:1000]}


async def answer(
    request: Request,
    work: Work,
    *,
    stream: bool,
    unknown: list[str],
    last: bytes = DONE,
    error_event: bytes = b"",
) -> Response:
    """Do the work, and answer in the form that the client wants.

    Args:
        unknown: Fields that nobody reads.
        last: What ends a stream.
        error_event: See `EventStream`.
    """
    await work.prepare()
    headers, timeout = ignored_header(unknown), service_of(request).settings.request_timeout
    if stream:
        return EventStream(
            work.chunks(), timeout=timeout, last=last, error_event=error_event, headers=headers
        )
    content = await while_connected(request.receive, work.whole(), timeout)
    return Response(content, headers=headers, media_type="application/json")


def checked(request: Request, body: Body) -> tuple[Service, list[str]]:
    """The server's parts, and the fields that nobody reads.

    Raises:
        ApiError: the body asks for something that it would not get.
    """
    service = service_of(request)
    unknown = service.check(body)
    if getattr(body, "stream_options", None) is not None and not getattr(body, "stream", False):
        raise bad_request("stream_options needs stream to be true", "stream_options")
    return service, unknown
