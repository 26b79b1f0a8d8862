"""One streamed request to an OpenAI-compatible server, timed."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from perfxlm_core.errors import ArgumentError

if TYPE_CHECKING:
    import aiohttp

    from perfxlm_core.cli.bench.samples import Sample


@dataclass
class Timed:
    """What became of one request; times are seconds.

    Attributes:
        started: On the clock of `time.perf_counter`.
        ttft: From the start to the first token; 0 if none came.
        itl: Between one piece of text and the next.
        latency: From the start to the last token.
        error: Why it failed; empty if it did not.
    """

    prompt_len: int = 0
    output_tokens: int = 0
    text: str = ""
    started: float = 0.0
    ttft: float = 0.0
    itl: list[float] = field(default_factory=list)
    latency: float = 0.0
    error: str = ""


@dataclass(frozen=True)
class Target:
    """Where requests go, and what all of them say.

    Attributes:
        chat: Prompts are a user's message.
        extra: Further fields of each body.
    """

    url: str
    model: str
    chat: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)

    def body(self, sample: Sample) -> dict[str, Any]:
        """A request's JSON."""
        prompt: dict[str, Any] = {"prompt": sample.prompt}
        if self.chat:
            prompt = {"messages": [{"role": "user", "content": sample.prompt}]}
        return {
            "model": self.model,
            **prompt,
            "max_tokens": sample.max_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
            **self.extra,
        }


async def ask(session: aiohttp.ClientSession, target: Target, sample: Sample) -> Timed:
    """Send a request and time its answer; what goes wrong is in the result."""
    import aiohttp

    timed = Timed(prompt_len=sample.prompt_tokens, started=time.perf_counter())
    try:
        async with session.post(target.url, json=target.body(sample)) as response:
            if response.status != 200:
                timed.error = f"HTTP {response.status}: {(await response.text())[:500]}"
            else:
                await _read(response, timed)
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        timed.error = f"{type(error).__name__}: {error}"
    return timed


async def _read(response: aiohttp.ClientResponse, timed: Timed) -> None:
    answer = Answer(timed)
    rest = b""
    async for data in response.content.iter_any():
        now = time.perf_counter()
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            answer.take(line, now)
    answer.end()


class Answer:
    """Notes what the lines of a stream say, and when they came."""

    def __init__(self, timed: Timed) -> None:
        self.timed = timed
        self.pieces: list[str] = []
        self.last = timed.started
        self.usage: int | None = None

    def take(self, line: bytes, now: float) -> None:
        """A line of the stream."""
        if not line.startswith(b"data:") or line[5:].strip() == b"[DONE]":
            return
        event = json.loads(line[5:])
        if "error" in event:
            self.timed.error = str(event["error"])[:500]
        for choice in event.get("choices") or ():
            self._note(choice, now)
        usage = event.get("usage")
        if usage:
            self.usage = usage.get("completion_tokens")

    def _note(self, choice: Mapping[str, Any], now: float) -> None:
        delta = choice.get("delta")
        if delta is not None:
            text = delta.get("content") or delta.get("reasoning") or delta.get("reasoning_content")
        else:
            text = choice.get("text")
        if not text and (delta is not None or choice.get("finish_reason")):
            return  # who speaks, or that it is over
        if not self.pieces:
            self.timed.ttft = now - self.timed.started
        else:
            self.timed.itl.append(now - self.last)
        self.last = now
        self.pieces.append(text or "")

    def end(self) -> None:
        """The stream is over."""
        timed = self.timed
        timed.text = "".join(self.pieces)
        timed.latency = self.last - timed.started
        timed.output_tokens = len(self.pieces) if self.usage is None else self.usage
        if not self.pieces and not timed.error:
            timed.error = "the stream held no text"


async def first_model(session: aiohttp.ClientSession, base_url: str) -> str:
    """The first model that a server lists.

    Raises:
        ArgumentError: it does not answer, or lists none.
    """
    import aiohttp

    try:
        async with session.get(f"{base_url}/v1/models") as response:
            return str((await response.json())["data"][0]["id"])
    except (aiohttp.ClientError, OSError, ValueError, LookupError, TypeError) as error:
        raise ArgumentError(
            f"{base_url}/v1/models names no model ({type(error).__name__}: {error}); "
            "is the server running? Otherwise give --model"
        ) from error
