"""Errors as OpenAI's clients expect them: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from perfxlm_core.errors import (
    ArgumentError,
    EngineDeadError,
    ModelError,
    PerfxlmError,
    RequestError,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from fastapi import FastAPI
    from starlette.requests import Request

TYPES = {
    400: "BadRequestError",
    401: "AuthenticationError",
    403: "PermissionDeniedError",
    404: "NotFoundError",
    405: "MethodNotAllowedError",
    408: "RequestTimeoutError",
    413: "RequestEntityTooLargeError",
    415: "UnsupportedMediaTypeError",
    500: "InternalServerError",
    501: "NotImplementedError",
    503: "ServiceUnavailableError",
    504: "GatewayTimeoutError",
}
MANY_ERRORS = 20
"""Validation errors listed in a message at most."""

log = logging.getLogger(__name__)


class ApiError(PerfxlmError):
    """An answer that is an error.

    Args:
        param: The field of the body that is wrong.
        kind: None takes the one of the status.
    """

    def __init__(
        self, status: int, message: str, param: str | None = None, kind: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.kind = kind or TYPES.get(status, "Error")

    def body(self) -> bytes:
        """The JSON text; half a surrogate pair that a client sent is escaped, not an error."""
        error = {
            "message": str(self),
            "type": self.kind,
            "param": self.param,
            "code": self.status,
        }
        return json.dumps({"error": error}).encode()

    def response(self, headers: Mapping[str, str] | None = None) -> Response:
        """The HTTP answer."""
        return Response(self.body(), self.status, headers, "application/json")


def bad_request(message: str, param: str | None = None) -> ApiError:
    """The client is to blame."""
    return ApiError(400, message, param)


def api_error(error: Exception) -> ApiError:
    """An exception as an answer; what is nobody's fault but ours is logged and becomes a 500."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, ValidationError):  # of a body made from another interface's
        return validation_error(error.errors())
    if isinstance(error, EngineDeadError):
        return ApiError(503, str(error))
    if isinstance(error, ArgumentError | RequestError | ModelError):
        return bad_request(str(error), getattr(error, "parameter", None))
    if isinstance(error, TimeoutError):
        return ApiError(504, "the request took longer than the server allows")
    log.error("unexpected %s", type(error).__name__, exc_info=error)
    return ApiError(500, f"{type(error).__name__}: {error}")


def validation_error(errors: Iterable[Mapping[str, Any]]) -> ApiError:
    """What pydantic found, in vLLM's form."""
    found = [_described(error) for error in errors]
    count = f"{len(found)} validation error{'s' * (len(found) != 1)}:"
    lines = [f"  {one}" for one in found[:MANY_ERRORS]]
    param = found[0]["loc"] if found else None
    return ApiError(400, "\n".join([count, *lines]), param, "Bad Request")


def _described(error: Mapping[str, Any]) -> dict[str, Any]:
    described = {
        "type": error["type"],
        "loc": ".".join(map(str, error["loc"])),
        "msg": error["msg"],
        "input": _short(error.get("input")),
    }
    if error["type"] == "json_invalid":
        described["ctx"] = {k: str(v) for k, v in error.get("ctx", {}).items()}
    return described


def _short(value: object) -> object:
    if isinstance(value, dict | list):
        return f"<{type(value).__name__} of {len(value)} items>"
    if isinstance(value, str | bytes) and len(value) > 200:
        return f"{value[:200]!r}..."
    return value


def add_handlers(app: FastAPI) -> None:
    """Answer every exception in this form."""

    async def ours(request: Request, error: Exception) -> Response:
        return api_error(error).response()

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return validation_error(error.errors()).response()

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if isinstance(error.__cause__, ApiError):  # raised while FastAPI read the body
            return error.__cause__.response()
        where = f"{request.method} {request.url.path}"
        message = f"{error.detail}: {where}" if error.status_code in (404, 405) else error.detail
        return ApiError(error.status_code, str(message)).response(error.headers)

    app.add_exception_handler(PerfxlmError, ours)
    app.add_exception_handler(TimeoutError, ours)
    app.add_exception_handler(ValidationError, ours)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, ours)
