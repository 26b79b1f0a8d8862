"""What the page is made of, and the routes that serve it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files as package_files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

_TYPES = {
    "index.html": "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "answer.js": "text/javascript; charset=utf-8",
    "load.js": "text/javascript; charset=utf-8",
    "text.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; form-action 'none'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
"""Nothing from elsewhere is loaded, run, or sent to."""


@dataclass(frozen=True)
class File:
    """A file of the page."""

    body: bytes
    content_type: str

    @property
    def headers(self) -> dict[str, str]:
        """Of its response; a browser asks again, and gets it again only if it changed."""
        etag = f'"{sha256(self.body).hexdigest()[:16]}"'
        return {**_HEADERS, "Content-Type": self.content_type, "ETag": etag}

    async def respond(self, request: Request) -> Response:
        """The file, or word that the browser has it already."""
        from starlette.responses import Response

        if request.headers.get("if-none-match") == self.headers["ETag"]:
            return Response(status_code=304, headers=self.headers)
        return Response(self.body, headers=self.headers)


@cache
def files() -> Mapping[str, File]:
    """Path -> file; the page itself is at `/`."""
    folder = package_files("perfxlm_core.serve.page") / "static"
    found = {f"/page/{name}": File((folder / name).read_bytes(), t) for name, t in _TYPES.items()}
    return {"/": found.pop("/page/index.html"), **found}


def routes() -> list[Route]:
    """Routes for all files, for the server's application."""
    from starlette.routing import Route

    return [
        Route(path, file.respond, name=f"page {path}", include_in_schema=False)
        for path, file in files().items()
    ]
