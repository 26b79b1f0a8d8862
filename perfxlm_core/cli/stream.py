"""Answers as they come, and how fast they came."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import SIGINT, default_int_handler, signal
from typing import TYPE_CHECKING

from perfxlm_core.errors import RequestError

if TYPE_CHECKING:
    from perfxlm_core.engine.outputs import RequestOutput


@dataclass
class Timing:
    """When the tokens of an answer came; seconds of the monotonic clock.

    Attributes:
        asked: When the prompt was handed over.
        first: When the first token came.
        last: When the last one came.
    """

    asked: float
    prompt_tokens: int = 0
    cached_tokens: int = 0
    tokens: int = 0
    first: float | None = None
    last: float = 0.0
    finish_reason: str | None = None

    def note(self, output: RequestOutput) -> None:
        """Count what an output brought."""
        now = time.monotonic()
        done = output.outputs[0]
        self.prompt_tokens = len(output.prompt_token_ids or ())
        self.cached_tokens = output.num_cached_tokens or 0
        self.tokens += len(done.token_ids)
        self.finish_reason = done.finish_reason
        self.last = now
        if self.first is None and self.tokens:
            self.first = now

    def summary(self) -> str:
        """One line: prompt tokens, time to the first token, tokens and tokens/s."""
        cached = f" ({self.cached_tokens} cached)" if self.cached_tokens else ""
        parts = [f"{self.prompt_tokens} prompt tokens{cached}"]
        if self.first is not None:
            start = _since_process_start()
            whole = ""
            if start is not None:
                start -= time.monotonic() - self.first
                whole = f" ({start:.2f} s after the program's start)"
            parts.append(f"first token after {self.first - self.asked:.2f} s{whole}")
        rate = ""
        if self.first is not None and self.tokens > 1 and self.last > self.first:
            rate = f", {(self.tokens - 1) / (self.last - self.first):.1f} tokens/s"
        parts.append(f"{self.tokens} tokens{rate}")
        if self.finish_reason == "length":
            parts.append("cut off by --max-tokens or the context's length")
        return "; ".join(parts)


def _since_process_start() -> float | None:
    """Seconds since this process was started; None where the system does not say."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        import os

        started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return time.clock_gettime(time.CLOCK_BOOTTIME) - started
    except (OSError, ValueError, AttributeError, IndexError):
        return None


@dataclass
class Interrupt:
    """Whether Ctrl-C was pressed."""

    pressed: bool = False


@contextmanager
def interruptible() -> Iterator[Interrupt]:
    """Inside, the first Ctrl-C only sets the flag; the second one is a KeyboardInterrupt."""
    interrupt = Interrupt()

    def note(number: int, frame: object) -> None:
        interrupt.pressed = True
        signal(SIGINT, default_int_handler)

    before = signal(SIGINT, note)
    try:
        yield interrupt
    finally:
        signal(SIGINT, before)


def write(
    outputs: Iterable[RequestOutput], timing: Timing, interrupt: Interrupt | None = None
) -> str:
    """Write an answer to stdout as it comes.

    Args:
        outputs: Deltas of one request.
        timing: Told of each.
        interrupt: Ends the answer when pressed.

    Returns:
        The text.

    Raises:
        RequestError: the request failed half-way.
    """
    parts: list[str] = []
    for output in outputs:
        timing.note(output)
        text = output.outputs[0].text
        if text:
            parts.append(text)
            sys.stdout.write(text)
            sys.stdout.flush()
        if output.error is not None:
            raise RequestError(output.error)
        if interrupt is not None and interrupt.pressed:
            break
    sys.stdout.write("\n")
    sys.stdout.flush()
    return "".join(parts)
