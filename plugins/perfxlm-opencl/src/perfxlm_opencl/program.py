"""A whole plan as one program: our launches in sweeps, others between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING

from perfxlm_core.plugin import Launch, ProfiledProgram, Program, Span, timed
from perfxlm_opencl.commands import wish
from perfxlm_opencl.launch import Chain, ClLaunch
from perfxlm_opencl.recorded import Recorded
from perfxlm_opencl.sweep import Sweep

if TYPE_CHECKING:
    from perfxlm_opencl.device import OpenClDevice


class Mixed:
    """Runs of our launches as one sweep each, other launches as they come.

    Args:
        device: where they run.
        parts: sweeps and others, each with the number of its first launch.
    """

    def __init__(self, device: OpenClDevice, parts: Sequence[tuple[int, Program]]) -> None:
        self._device, self._parts = device, tuple(parts)

    def __call__(self, sizes: Mapping[str, int]) -> None:
        """Run a step."""
        for _, part in self._parts:
            part(sizes)

    def profile(self, sizes: Mapping[str, int]) -> list[Span]:
        """Run a step, timed; what is not ours with a wait behind it."""
        spans: list[Span] = []
        for first, part in self._parts:
            own = isinstance(part, ProfiledProgram)
            found = part.profile(sizes) if own else timed(part, sizes, self._device)
            spans += [replace(span, launch=first + span.launch) for span in found]
        return spans


def program_of(device: OpenClDevice, launches: Sequence[Launch], symbols: Sequence[str]) -> Program:
    """The plainest program that does."""
    numbered = list(enumerate(launches))
    parts: list[tuple[int, Program]] = []
    for own, group in groupby(numbered, key=lambda one: isinstance(one[1], ClLaunch | Chain)):
        run = list(group)
        parts += [(run[0][0], _swept(device, [o for _, o in run], symbols))] if own else run
    return parts[0][1] if len(parts) == 1 else Mixed(device, parts)


def _swept(device: OpenClDevice, launches: Sequence[Launch], symbols: Sequence[str]) -> Program:
    """A sweep; recorded where the device can, and it is more than one call anyway."""
    numbered = [
        (number, part)
        for number, one in enumerate(launches)
        for part in (one.parts if isinstance(one, Chain) else [one])
    ]
    made = Sweep(device, [p for _, p in numbered], symbols, [n for n, _ in numbered])
    commands = device.commands if len(made.entries) > 1 else None
    if commands is None:
        return made
    return Recorded(made, commands, always=wish() == "always")
