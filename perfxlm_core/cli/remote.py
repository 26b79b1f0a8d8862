"""Streams from an OpenAI-compatible server, with the standard library alone."""

from __future__ import annotations

import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any

from perfxlm_core.cli.stream import interruptible
from perfxlm_core.errors import ArgumentError, RequestError

if TYPE_CHECKING:
    from perfxlm_core.cli.stream import Timing

DEFAULT_URL = "http://localhost:8000/v1"
TIMEOUT = 600
"""Seconds of silence."""


class Server:
    """A server's API, by its URL up to and with /v1.

    Raises:
        ArgumentError: the URL is not one of HTTP.
    """

    def __init__(self, url: str, api_key: str | None = None) -> None:
        if not url.startswith(("http://", "https://")):
            raise ArgumentError(f"--url is {url!r}; expected for example {DEFAULT_URL}")
        self.url = url.rstrip("/")
        self.headers = {"Content-Type": "application/json"}
        if api_key:
            self.headers["Authorization"] = f"Bearer {api_key}"

    def model(self) -> str:
        """The first model that it lists.

        Raises:
            ArgumentError: it cannot be reached, or lists none.
        """
        with self._open("/models") as response:
            try:
                return str(json.load(response)["data"][0]["id"])
            except (ValueError, LookupError, TypeError) as error:
                raise ArgumentError(f"{self.url}/models names no model") from error

    def stream(self, path: str, body: Mapping[str, Any]) -> Generator[dict[str, Any]]:
        """The events of an answer, until it ends.

        Raises:
            RequestError: the server refuses, or fails half-way.
            ArgumentError: it cannot be reached.
        """
        with self._open(path, {**body, "stream": True}) as response:
            for line in response:
                if line.startswith(b"data:") and line[5:].strip() != b"[DONE]":
                    event = json.loads(line[5:])
                    if "error" in event:
                        raise RequestError(_message(event))
                    yield event

    def _open(self, path: str, body: Mapping[str, Any] | None = None) -> Any:  # noqa: ANN401
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, self.headers)
        try:
            return urllib.request.urlopen(request, timeout=TIMEOUT)
        except urllib.error.HTTPError as error:
            raise RequestError(f"HTTP {error.code}: {_refusal(error)}") from error
        except OSError as error:
            reason = getattr(error, "reason", error)
            raise ArgumentError(f"{self.url} cannot be reached: {reason}") from error


class RemoteModel:
    """A server's model; `sampling` are fields of each request's body."""

    def __init__(self, server: Server, model: str, sampling: Mapping[str, Any]) -> None:
        self.server = server
        self.fields = {"model": model, "stream_options": {"include_usage": True}, **sampling}

    def say(self, messages: list[dict[str, str]], timing: Timing) -> str:
        """The answer to a conversation, written to stdout as it comes."""
        return self._write("/chat/completions", {"messages": messages}, timing)

    def go_on(self, text: str, timing: Timing) -> str:
        """How a text goes on, written to stdout as it comes."""
        return self._write("/completions", {"prompt": text}, timing)

    def _write(self, path: str, prompt: dict[str, Any], timing: Timing) -> str:
        pieces: list[str] = []
        events = self.server.stream(path, {**self.fields, **prompt})
        with interruptible() as interrupt, closing(events):
            for event in events:
                text = _text(event, timing)
                if text:
                    pieces.append(text)
                    sys.stdout.write(text)
                    sys.stdout.flush()
                if interrupt.pressed:
                    break
        sys.stdout.write("\n")
        sys.stdout.flush()
        return "".join(pieces)


def _text(event: dict[str, Any], timing: Timing) -> str:
    """What an event adds to the text; its time is noted."""
    usage = event.get("usage")
    if usage:
        timing.prompt_tokens, timing.tokens = usage["prompt_tokens"], usage["completion_tokens"]
    choices = event.get("choices")
    if not choices:
        return ""
    timing.finish_reason = choices[0].get("finish_reason")
    text = choices[0].get("text") or (choices[0].get("delta") or {}).get("content") or ""
    if text:
        timing.last = time.monotonic()
        timing.first = timing.first or timing.last
        timing.tokens += not usage
    return str(text)


def _refusal(error: urllib.error.HTTPError) -> str:
    """What the server says about it."""
    text = error.read().decode("utf-8", "replace")
    try:
        return _message(json.loads(text))
    except ValueError:
        return text.strip()[:500] or error.reason


def _message(event: Any) -> str:  # noqa: ANN401 - whatever a server sends
    error = event.get("error") if isinstance(event, dict) else None
    return str(error.get("message", error)) if isinstance(error, dict) else str(error or event)
