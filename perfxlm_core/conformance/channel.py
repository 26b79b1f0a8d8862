"""Messages over a socket between the kit and its worker: a frame is MAGIC, a length, the bytes."""

from __future__ import annotations

import socket
import struct
import time

MAGIC = b"pXLM\x00\xc1"
"""Bytes that no program prints by accident: what a plugin writes here is noticed."""
HEADER = struct.Struct("<6sI")
LONGEST = 1 << 26
"""Bytes of the longest message; more is garbage."""
PIECE = 1 << 16


class GarbledError(Exception):
    """What came is not a message."""


class Channel:
    """One end of the socket."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._buffer = bytearray()

    def send(self, payload: bytes) -> None:
        """One message; raises OSError if nobody listens."""
        self._socket.settimeout(None)
        self._socket.sendall(HEADER.pack(MAGIC, len(payload)) + payload)

    def receive(self, seconds: float | None = None) -> bytes:
        """The next message.

        Args:
            seconds: how long to wait for it; None waits for ever.

        Raises:
            TimeoutError: it did not come.
            EOFError: the other end is closed.
            GarbledError: something else came.
        """
        end = None if seconds is None else time.monotonic() + seconds
        while (message := self._taken()) is None:
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError
            self._socket.settimeout(left)
            try:
                piece = self._socket.recv(PIECE)
            except ConnectionError:
                piece = b""
            if not piece:
                raise EOFError
            self._buffer += piece
        return message

    def _taken(self) -> bytes | None:
        """A message out of the buffer, if it is complete."""
        if not MAGIC.startswith(self._buffer[: len(MAGIC)]):
            raise GarbledError(bytes(self._buffer[:80]))
        if len(self._buffer) < HEADER.size:
            return None
        _, length = HEADER.unpack_from(self._buffer)
        if length > LONGEST:
            raise GarbledError(bytes(self._buffer[:80]))
        end = HEADER.size + length
        if len(self._buffer) < end:
            return None
        message = bytes(self._buffer[HEADER.size : end])
        del self._buffer[:end]
        return message

    def close(self) -> None:
        """Close this end."""
        self._socket.close()
