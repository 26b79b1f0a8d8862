"""Steps that come again are recorded, and replayed where that is quicker for the host.

A step of sizes that came before is recorded as a command buffer: decoding repeats its sizes, since
kernels read the lengths of contexts from memory. Whether one call for all is less work than a call
for each is the driver's affair, so both are timed, in turns, before one is kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from statistics import median
from time import perf_counter_ns

import pyopencl as cl

from perfxlm_core.plugin import DeviceError, Span
from perfxlm_opencl.commands import Commands, Recording
from perfxlm_opencl.sweep import Ready, Sizes, Sweep

KEPT = 16
"""Sizes that are remembered, with a recording or without; the longest unused goes first."""
TRIALS = 8
"""Steps of each kind that are timed before one kind is kept."""
WORTH = 0.75
"""What replaying may take of the time of launching to be kept; some drivers gain nothing by it."""


class Trial:
    """Whether replaying is clearly quicker for the host than launching.

    Attributes:
        verdict: the answer; None until there is one.
    """

    def __init__(self, verdict: bool | None = None) -> None:
        self.verdict = verdict
        self._times: tuple[list[int], list[int]] = ([], [])

    @property
    def turn(self) -> bool:
        """Whether the next step is to be replayed."""
        if self.verdict is not None:
            return self.verdict
        launched, replayed = self._times
        return len(replayed) < len(launched)

    def add(self, replayed: bool, nanoseconds: int) -> None:
        """The host's time of a step."""
        self._times[replayed].append(nanoseconds)
        if min(map(len, self._times)) >= TRIALS:
            one_by_one, at_once = map(median, self._times)
            self.verdict = at_once <= WORTH * one_by_one


class Recorded:
    """A sweep, recorded where it repeats itself.

    Args:
        sweep: what runs otherwise.
        commands: of its device.
        always: replay whatever is quicker.
    """

    def __init__(self, sweep: Sweep, commands: Commands, *, always: bool = False) -> None:
        self.sweep, self.commands = sweep, commands
        self.trial = Trial(True if always else None)
        self.recordings: OrderedDict[Sizes, Recording | None] = OrderedDict()

    @property
    def entries(self) -> list[Ready]:
        """Every launch with its kernel."""
        return self.sweep.entries

    def __call__(self, sizes: Mapping[str, int]) -> None:
        """Run a step."""
        trial = self.trial
        if trial.verdict is False or self.commands.refused:
            self.sweep(sizes)
            return
        key = self.sweep.key(sizes)
        recording = self._find(key, sizes)
        if recording is None:
            self.sweep(sizes)
        elif trial.verdict:
            self._replay(recording, key, sizes)
        else:
            self._try(recording, key, sizes)

    def profile(self, sizes: Mapping[str, int]) -> list[Span]:
        """Run a step, timed: launched one by one, as recordings have no times of their parts."""
        return self.sweep.profile(sizes)

    def _find(self, key: Sizes, sizes: Mapping[str, int]) -> Recording | None:
        """The recording of a step, made when its sizes come for the second time."""
        known = self.recordings
        if key not in known:
            known[key] = None
            if len(known) > KEPT:
                known.popitem(last=False)
            return None
        known.move_to_end(key)
        if known[key] is None:
            known[key] = self._record(sizes)
        return known[key]

    def _record(self, sizes: Mapping[str, int]) -> Recording | None:
        source = self.sweep if self.commands.keeps_arguments else self.sweep.copy()
        try:
            entries = source.resized(sizes)
            return Recording(self.commands, entries, source.entries) if entries else None
        except cl.Error as error:
            self._refuse(error)
            return None

    def _refuse(self, error: cl.Error) -> None:
        self.commands.refuse(self.sweep.device.label, error)
        self.recordings.clear()

    def _replay(self, recording: Recording, key: Sizes, sizes: Mapping[str, int]) -> None:
        try:
            if recording.replay():
                self.sweep.queue.flush()
                return
        except cl.Error as error:
            if recording.proven:
                raise self._failure(recording, key, error) from error
            self._refuse(error)
        self.sweep(sizes)

    def _failure(self, recording: Recording, key: Sizes, error: cl.Error) -> DeviceError:
        names = [entry[0].function_name for entry in recording.entries]
        return DeviceError(
            f"{self.sweep.device.label} failed to replay {len(names)} recorded kernels "
            f"({names[0]} to {names[-1]}) with sizes {self.sweep.named(key)}: {error}; if the "
            "device was reset or taken away, load the model again"
        )

    def _try(self, recording: Recording, key: Sizes, sizes: Mapping[str, int]) -> None:
        """A step of the trial."""
        turn = self.trial.turn
        start = perf_counter_ns()
        if turn:
            self._replay(recording, key, sizes)
        else:
            self.sweep(sizes)
        self.trial.add(turn, perf_counter_ns() - start)
        if self.trial.verdict is False:
            self.recordings.clear()
