"""Text of a growing output, and the stop strings in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perfxlm_core.checkpoints.detokenize import DecodeStream


class Detokenizer:
    """Turns tokens into text one by one, and ends the text at a stop string.

    Args:
        stream: None produces no text.
        include_stop: Keep the stop string in the text.
        min_tokens: A stop string counts only if it is completed after this many tokens.
    """

    def __init__(
        self,
        stream: DecodeStream | None,
        stop: Sequence[str] = (),
        *,
        include_stop: bool = False,
        min_tokens: int = 0,
    ) -> None:
        self.text = ""
        self._stream = stream
        self._stop = tuple(stop)
        self._longest = max(map(len, self._stop), default=0)
        self._include_stop = include_stop
        self._min_tokens = min_tokens
        self._num_tokens = 0

    def append(self, token_id: int) -> str | None:
        """Add a token; the stop string that it completed, if any."""
        if self._stream is None:
            return None
        new = self._stream.step(token_id)
        self._num_tokens += 1
        if not new:
            return None
        self.text += new
        if not self._stop or self._num_tokens <= self._min_tokens:
            return None
        return self._cut(len(new))

    def _cut(self, num_new: int) -> str | None:
        """End the text at the first stop string that reaches into its newest characters."""
        text = self.text
        found = None
        for stop in self._stop:
            at = text.find(stop, max(0, len(text) - num_new - len(stop) + 1))
            if at >= 0 and (found is None or at < found[0]):
                found = at, stop
        if found is None:
            return None
        at, stop = found
        self.text = text[: at + len(stop)] if self._include_stop else text[:at]
        return stop

    def finish(self) -> None:
        """Add what is left of an unfinished character; not after a stop string."""
        if self._stream is not None:
            self.text += self._stream.flush()

    @property
    def num_safe(self) -> int:
        """Characters that stay, whatever comes: the end may be the start of a stop string."""
        text = self.text
        if self._include_stop:
            return len(text)
        for length in range(min(self._longest - 1, len(text)), 0, -1):
            tail = text[-length:]
            if any(len(stop) > length and stop.startswith(tail) for stop in self._stop):
                return len(text) - length
        return len(text)
