"""What a run found, as plain data: what `--json` writes and `--html` shows."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from perfxlm_core import __version__
from perfxlm_core.conformance.runner import Row, snippet
from perfxlm_core.conformance.target import Facts

STATES = ("passed", "declined", "reference", "not covered", "failed")
"""What becomes of a row."""


def report(
    facts: Facts, rows: Sequence[Row], *, examples: int, seed: int, large: bool
) -> dict[str, Any]:
    """The report.

    Args:
        facts: what was tested.
        rows: what became of it.
        examples: cases that each row was given.
        seed: of the cases.
        large: whether they had the sizes of real models.

    Returns:
        `perfxlm` (version), `plugin` (name), `distribution` (name and version), `device` (name,
        vendor, description, total_memory, details), `date` (UTC), `platform`, `examples`, `seed`,
        `large`, `counts` (state -> rows), and `rows`: the fields of `Row` with `status` and
        `scarce`, and with `case` and `snippet` as Python text.
    """
    return {
        "perfxlm": __version__,
        "plugin": facts.name,
        "distribution": facts.distribution,
        "device": {"name": facts.device, **facts.description},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "platform": f"Python {platform.python_version()}, {platform.platform()}",
        "examples": examples,
        "seed": seed,
        "large": large,
        "counts": counts(rows),
        "rows": [_plain(facts.name, row) for row in rows],
    }


def counts(rows: Sequence[Row]) -> dict[str, int]:
    """State -> rows, for states that there are."""
    found = {state: sum(r.status == state for r in rows) for state in STATES}
    return {state: n for state, n in found.items() if n}


def _plain(plugin: str, row: Row) -> dict[str, Any]:
    fields = {f.name: getattr(row, f.name) for f in dataclasses.fields(row)}
    failed = row.failure is not None
    return {
        **fields,
        "status": row.status,
        "scarce": row.scarce,
        "case": repr(row.case) if failed else None,
        "snippet": snippet(plugin, row) if failed else None,
        "seconds": round(row.seconds, 3),
    }
