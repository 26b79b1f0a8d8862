"""What `perfxlm conformance --perf` adds: kernels timed in the worker, and a table of it."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from perfxlm_core.cli.tables import megabytes, table

if TYPE_CHECKING:
    from perfxlm_core.conformance.perf import Limits, Timing

HEADER = (
    "kernel", "dtype", "format", "shape", "batch", "time", "GB/s", "GFLOP/s", "through",
    "of the limit",
)  # fmt: skip


def timed(plugin: str, only: str | None, timeout: float) -> dict[str, Any]:
    """Time a plugin's kernels, or those of one operator, and print what was found.

    Returns:
        `limits`, `timings` and `untimed` (what went wrong), for the report.
    """
    from perfxlm_core.conformance import Failure, Session, slots
    from perfxlm_core.conformance.perf import Limits
    from perfxlm_core.conformance.slots import operator

    limits = Limits()
    timings: list[Timing] = []
    untimed: list[str] = []
    with Session(plugin, timeout) as session:
        todo = [s for s in slots(session, only) if s.kernel is not None and operator(s.op)]
        with click.progressbar(todo, label="timing", file=sys.stderr) as bar:
            for slot in bar:
                assert slot.kernel is not None
                try:
                    limits, found = session.time(slot.kernel.index, slot.variant)
                    timings += found
                except Failure as failure:
                    untimed.append(f"{slot.name} could not be timed: {failure}")
    click.echo(f"\n{said(limits)}\n")
    click.echo(table(HEADER, [cells(t) for t in timings]))
    for line in untimed:
        click.echo(line)
    return {
        "limits": asdict(limits),
        "timings": [asdict(t) for t in timings],
        "untimed": untimed,
    }


def said(limits: Limits) -> str:
    """The limits of a device as a sentence."""
    parts = [
        (limits.read, "GB/s are read from memory"),
        (limits.float32, "GFLOP/s are computed in float32"),
        (limits.int8, "GOP/s with 8-bit integers"),
    ]
    known = [f"{value / 1e9:.1f} {what}" for value, what in parts if value]
    if not known:
        return "The limits of the device are not known."
    return f"At most {', '.join(known)}, measured by {limits.source}."


def cells(one: Timing) -> tuple[str, ...]:
    """A row of the table, under HEADER."""
    computed = "" if one.operations is None else f"{one.operations / one.seconds / 1e9:.1f}"
    limit = "" if one.fraction is None else f"{one.fraction:.0%} {one.limit}"
    speed = f"{one.nbytes / one.seconds / 1e9:.1f}"
    return (
        one.kernel, one.dtype, one.format, one.shape, one.batch, f"{one.seconds * 1e6:.1f} us",
        speed, computed, megabytes(one.footprint), limit,
    )  # fmt: skip
