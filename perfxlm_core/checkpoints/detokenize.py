"""Text of a growing list of token ids, a piece at a time.

The pieces joined are what decoding all ids at once gives. No piece ends inside a character: bytes
that do not yet make one are held back.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence
from typing import Protocol

_CONTEXT = 6
"""Tokens before the first one that may share a character, or decide about a space, with it."""


class DecodeStream(Protocol):
    """What `Tokenizer.decode_stream` returns; it belongs to one sequence of one thread."""

    def step(self, token_id: int) -> str:
        """The text that this token completes; often empty."""
        ...

    def flush(self) -> str:
        """What was held back: replacement characters for bytes that never became characters."""
        ...


class ByteStream:
    """For tokenizers whose tokens are plain bytes: an incremental UTF-8 decoder, O(1) a token."""

    def __init__(self, token_bytes: Callable[[int], bytes], context: Sequence[int]) -> None:
        """A stream after the tokens of `context`, whose text is not given out."""
        self._token_bytes = token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for token_id in context[-_CONTEXT:]:
            self.step(token_id)

    def step(self, token_id: int) -> str:
        """The text that this token completes; often empty."""
        return self._decoder.decode(self._token_bytes(token_id))

    def flush(self) -> str:
        """Replacement characters for the bytes held back."""
        return self._decoder.decode(b"", True)


class WindowStream:
    """For any tokenizer: the difference between two decodings of the latest few tokens.

    A decoder may treat the first token specially (its leading space) and may join the bytes of
    several tokens, so both decodings begin at a token whose text is already out.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], context: Sequence[int]) -> None:
        """A stream after the tokens of `context`, whose text is not given out."""
        self._decode = decode
        self._ids = list(context[-_CONTEXT:])
        self._sent = len(self._ids)

    def step(self, token_id: int) -> str:
        """The text that this token completes; often empty."""
        self._ids.append(token_id)
        before = self._decode(self._ids[: self._sent])
        now = self._decode(self._ids)
        if len(now) <= len(before) or now.endswith("\N{REPLACEMENT CHARACTER}"):
            return ""
        del self._ids[: self._sent]
        self._sent = len(self._ids)
        return now[len(before) :]

    def flush(self) -> str:
        """Replacement characters for the bytes held back."""
        before = self._decode(self._ids[: self._sent])
        now = self._decode(self._ids)
        self._sent = len(self._ids)
        return now[len(before) :]
