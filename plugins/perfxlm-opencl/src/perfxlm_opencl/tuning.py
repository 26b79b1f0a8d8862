"""Shapes of kernels that were measured on this device, kept on disk.

A file holds what was measured with one device, driver, profile and version of the plugin; another
driver begins anew. What cannot be read is as if it had never been measured.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from perfxlm_opencl.profiles import Facts, Profile

Shape = Mapping[str, int]


class Tuned:
    """Winners by name.

    Args:
        folder: where they are kept; None keeps them in memory only.
        facts: what the device reports.
        profile: what kernels may use.

    Attributes:
        lines: while something measures: what it found; None at other times.
    """

    def __init__(self, folder: Path | None, facts: Facts, profile: Profile) -> None:
        parts = (facts.platform, facts.device, facts.driver, profile.summary(), _plugin_version())
        digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()
        self.path = None if folder is None else folder / f"tuned-{digest[:32]}.json"
        self.lines: list[str] | None = None
        self._winners = self._read()
        self._fresh: set[str] = set()

    def find(self, name: str) -> Shape | None:
        """The winner under a name; None if nothing was measured, or is to be measured anew."""
        if self.lines is not None and name not in self._fresh:
            return None
        return self._winners.get(name)

    def keep(self, name: str, shape: Shape, line: str) -> None:
        """A winner, and a line about it for whoever looks on."""
        self._winners[name] = dict(shape)
        self._fresh.add(name)
        if self.lines is not None:
            self.lines.append(line)
        self._write()

    @contextmanager
    def measuring(self) -> Iterator[list[str]]:
        """What is bound meanwhile is measured anew; gives the lines."""
        self._fresh.clear()
        self.lines = lines = []
        try:
            yield lines
        finally:
            self.lines = None

    def _read(self) -> dict[str, Shape]:
        if self.path is None:
            return {}
        try:
            found = json.loads(self.path.read_text())
        except (OSError, ValueError):
            return {}
        given = found.items() if isinstance(found, dict) else ()
        return {name: shape for name, shape in given if _is_shape(shape)}

    def _write(self) -> None:
        if self.path is None:
            return
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=".tuned-")
            with os.fdopen(handle, "w") as file:
                json.dump(self._winners, file, indent=1)
            os.replace(name, self.path)


def _is_shape(given: object) -> bool:
    return isinstance(given, dict) and all(type(v) is int and v > 0 for v in given.values())


def _plugin_version() -> str:
    try:
        return version("perfxlm-opencl")
    except PackageNotFoundError:
        return "0"
