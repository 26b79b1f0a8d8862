"""From sources in `cl/` to compiled programs, in memory and on disk."""

from __future__ import annotations

import hashlib
import logging
import re
import warnings
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import pyopencl as cl
from pyopencl import _cl  # its own Program caches too, and leaves files where a build fails

from perfxlm_core.plugin import DeviceError
from perfxlm_opencl.binaries import Binaries
from perfxlm_opencl.profiles import Facts, Profile
from perfxlm_opencl.progress import Progress

log = logging.getLogger(__name__)

Defines = Mapping[str, str | int | float]
_INCLUDE = re.compile(r'^#include "([\w.]+)"$', re.MULTILINE)
_LOG_LINES = 6
_BORROWED = frozenset({"intel", "adreno", "mali"})
"""Profiles that a processor runs only to try them: their code is not optimized there, which takes
runtimes for processors up to seventy times as long."""


class Programs:
    """Compiled programs of one device.

    Args:
        name: the device's, for messages.
        device: it.
        context: its context.
        facts: what it reports.
        profile: what kernels may use; becomes defines of every program.
        folder: where binaries are kept; None keeps them in memory only.
        progress: is told of what has to be compiled.
    """

    def __init__(
        self,
        name: str,
        device: cl.Device,
        context: cl.Context,
        facts: Facts,
        profile: Profile,
        folder: Path | None,
        progress: Progress | None = None,
    ) -> None:
        self.name, self.device, self.context = name, device, context
        self.progress = Progress(name) if progress is None else progress
        self.facts, self.profile = facts, profile
        self.binaries = Binaries(folder)
        self._built: dict[tuple[str, tuple[str, ...]], Any] = {}
        self._refused: set[tuple[str, tuple[str, ...]]] = set()

    def build(self, source: str, defines: Defines | None = None, std: str = "CL1.2") -> Any:  # noqa: ANN401
        """The program made from a source in `cl/`.

        Args:
            source: file name, "rows.cl".
            defines: macros.
            std: version of OpenCL C.

        Raises:
            DeviceError: the driver refuses it; the message has the first lines of its log.
        """
        options = self._options(defines or {}, std)
        key = (source, options)
        if key not in self._built:
            self._built[key] = self._load(source, options)
        return self._built[key]

    def attempt(self, source: str, defines: Defines | None = None, std: str = "CL1.2") -> Any:  # noqa: ANN401
        """The program, or None if the driver refuses it: then use the generic variant.

        A refusal is logged once, with the first lines of the driver's log.
        """
        key = (source, self._options(defines or {}, std))
        if key in self._refused:
            return None
        try:
            return self.build(source, defines, std)
        except DeviceError as error:
            self._refused.add(key)
            log.warning("%s; the generic kernels are used instead", error)
            return None

    def fitted(
        self, source: str, kernel: str, defines: Defines, items: int, define: str = "LOCAL"
    ) -> tuple[Any, int]:
        """The program with the largest work-group that its kernel may have.

        Args:
            source: file name.
            kernel: name of the kernel.
            defines: macros.
            items: work-items wanted; halved until the compiled kernel allows them.
            define: the macro that tells the kernel how many there are.

        Returns:
            The program, and the work-items of a group.
        """
        items = min(items, self.profile.max_items)
        while True:
            program = self.build(source, {**defines, define: items})
            allowed = work_group_limit(self.device, program, kernel)
            if items <= allowed or items == 1:
                return program, items
            items //= 2

    def _options(self, defines: Defines, std: str) -> tuple[str, ...]:
        profile = self.profile
        own: dict[str, str | int | float] = {
            f"PROFILE_{profile.name.upper()}": 1,
            "HAS_FP16": int(profile.fp16),
            "SUBGROUP": profile.subgroup,
            "HAS_DOT": int(profile.dot_product),
        }
        made = [f"-D{n}={v}" for n, v in sorted({**own, **defines}.items())]
        if self.facts.is_cpu and profile.name in _BORROWED:
            made.append("-cl-opt-disable")
        return (f"-cl-std={std}", *made)

    def _load(self, source: str, options: tuple[str, ...]) -> Any:  # noqa: ANN401
        text = read_source(source)
        key = self._key(text, options)
        binary = self.binaries.read(key)
        if binary is not None:
            try:
                return self._compiled(_cl._Program(self.context, [self.device], [binary]), options)
            except cl.Error:
                self.binaries.drop(key)
        self.progress.compiling()
        try:
            program = self._compiled(_cl._Program(self.context, text), options)
        except cl.Error as error:
            raise DeviceError(
                f"{self.name} ({self.facts.device}, driver {self.facts.driver}) does not compile "
                f"{source} {' '.join(options)}: {_first_lines(str(error))}"
            ) from error
        self.binaries.write(key, program.get_info(cl.program_info.BINARIES)[0])
        return program

    def _compiled(self, program: Any, options: tuple[str, ...]) -> Any:  # noqa: ANN401
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # any output of a compiler is a warning
            program.build(" ".join(options).encode(), [self.device])
        return program

    def _key(self, text: str, options: tuple[str, ...]) -> str:
        facts = self.facts
        version = self.device.version
        parts = (facts.platform, facts.device, version, facts.driver, *options, text)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def work_group_limit(device: cl.Device, program: Any, kernel: str) -> int:  # noqa: ANN401
    """Work-items of a group that a compiled kernel may have on a device."""
    made = cl.Kernel(program, kernel)
    info = cl.kernel_work_group_info.WORK_GROUP_SIZE
    limit: Any = made.get_work_group_info(info, device)
    return int(limit)


@cache
def read_source(name: str) -> str:
    """A source in `cl/`, with what it includes, each file once."""
    return _resolved(name, set())


def _resolved(name: str, seen: set[str]) -> str:
    seen.add(name)
    text = (files("perfxlm_opencl") / "cl" / name).read_text()

    def insert(found: re.Match[str]) -> str:
        return "" if found[1] in seen else _resolved(found[1], seen)

    return _INCLUDE.sub(insert, text)


def _first_lines(text: str) -> str:
    """What a person needs of a build log: the first lines that tell of errors."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if "error" in line.lower()] or lines
    return " | ".join(telling[:_LOG_LINES])[:1500]
