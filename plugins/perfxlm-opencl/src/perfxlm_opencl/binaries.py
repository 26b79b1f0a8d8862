"""Compiled programs on disk.

A file is named by everything that the binary depends on, and begins with a digest of its content:
whatever is cut off, damaged or of another make is thrown away and compiled again. Files appear by
renaming, so writers do not disturb each other or readers.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

CACHE = "PERFXLM_OPENCL_CACHE"
"""Environment variable: the folder of compiled programs; empty for none."""

_MAGIC = b"perfxlm-opencl-1\n"


def default_folder() -> Path | None:
    """Where compiled programs are kept; None if they are not."""
    own = os.environ.get(CACHE)
    if own is not None:
        return Path(own) if own else None
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home())) / "perfxlm" / "opencl"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "perfxlm" / "opencl"


class Binaries:
    """A folder of compiled programs.

    Args:
        folder: created when the first program is kept; None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def read(self, key: str) -> bytes | None:
        """The program kept under a key; None if there is none that is whole."""
        if self.folder is None:
            return None
        try:
            content = self._path(key).read_bytes()
        except OSError:
            return None
        head = len(_MAGIC) + 32
        digest, binary = content[len(_MAGIC) : head], content[head:]
        whole = content.startswith(_MAGIC) and hashlib.sha256(binary).digest() == digest
        if not whole or not binary:
            self.drop(key)
            return None
        return binary

    def write(self, key: str, binary: bytes) -> None:
        """Keep a program; a folder that cannot be written to is not an error."""
        if self.folder is None:
            return
        with suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self.folder, prefix=f".{key[:16]}-")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(_MAGIC + hashlib.sha256(binary).digest() + binary)
                os.replace(name, self._path(key))
            except OSError:
                os.unlink(name)
                raise

    def drop(self, key: str) -> None:
        """Forget a program."""
        if self.folder is not None:
            with suppress(OSError):
                self._path(key).unlink()

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{key}.bin"
