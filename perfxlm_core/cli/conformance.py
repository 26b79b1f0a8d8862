"""`perfxlm conformance`."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from perfxlm_core.cli.tables import table
from perfxlm_core.errors import PerfxlmError

if TYPE_CHECKING:
    from perfxlm_core.conformance import Row

EXAMPLES = 200
HEADER = ("operator", "kernel", "dtype", "format", "result", "passed", "declined", "worst")


@click.command()
@click.argument("plugin")
@click.option("--op", "only", help="Look at this operator alone.")
@click.option(
    "--examples",
    type=click.IntRange(min=1),
    default=EXAMPLES,
    show_default=True,
    help="Cases for each kernel with each combination of types.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the cases.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the rows there.")
def conformance(
    plugin: str, only: str | None, examples: int, seed: int, json_file: Path | None
) -> int:
    """Try every kernel of PLUGIN against the operators' definitions.

    The worst error is in units of what is allowed: 1.000 would just pass. Exit code 1 means that
    a kernel is wrong; the smallest case that shows it is printed as Python.
    """
    rows = _run(plugin, only, examples, seed)
    click.echo(table(HEADER, [_cells(r) for r in rows]))
    failed = [r for r in rows if r.failure is not None]
    for row in failed:
        click.echo(f"\n{row.kernel}: {row.failure}\n\n{_snippet(plugin, row)}")
    click.echo(f"\n{_summary(rows)}")
    if json_file is not None:
        content = {"plugin": plugin, "examples": examples, "seed": seed, "rows": _plain(rows)}
        json_file.write_text(json.dumps(content, indent=1) + "\n")
    return 1 if failed else 0


def _run(plugin: str, only: str | None, examples: int, seed: int) -> list[Row]:
    try:
        from perfxlm_core.conformance import Target, run_slot, slots
    except ModuleNotFoundError as error:
        raise PerfxlmError(
            f'perfxlm conformance needs {error.name}: pip install "perfxlm[conformance]"'
        ) from None
    target = Target.load(plugin)
    todo = slots(target, only)
    with click.progressbar(todo, label=plugin, file=sys.stderr) as bar:
        return [run_slot(target, slot, examples, seed) for slot in bar]


def _cells(row: Row) -> tuple[str, ...]:
    ran = row.passed + row.declined > 0 or row.failure is not None
    worst = f"{row.worst:.3f}" if row.passed and row.failure is None else ""
    counts = (str(row.passed), str(row.declined)) if ran else ("", "")
    return (row.op, row.kernel or "-", row.dtype, row.format, row.status, *counts, worst)


def _snippet(plugin: str, row: Row) -> str:
    from perfxlm_core.conformance import snippet

    return "\n".join(f"    {line}".rstrip() for line in snippet(plugin, row).splitlines())


def _summary(rows: Sequence[Row]) -> str:
    states = ("passed", "declined", "not implemented", "not covered", "failed")
    counts = {s: sum(r.status == s for r in rows) for s in states}
    cases = sum(r.passed for r in rows)
    return f"{cases} cases; rows: " + ", ".join(f"{n} {s}" for s, n in counts.items() if n)


def _plain(rows: Sequence[Row]) -> list[dict[str, Any]]:
    plain: list[dict[str, Any]] = []
    for row in rows:
        fields = {f.name: getattr(row, f.name) for f in dataclasses.fields(row)}
        case = None if row.case is None else repr(row.case)
        plain.append({**fields, "status": row.status, "case": case})
    return plain
