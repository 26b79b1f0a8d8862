"""`perfxlm conformance`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from perfxlm_core.cli.tables import table
from perfxlm_core.cli.timings import timed
from perfxlm_core.errors import ArgumentError, PerfxlmError

if TYPE_CHECKING:
    from perfxlm_core.conformance import Row
    from perfxlm_core.conformance.target import Facts

EXAMPLES = 200
LARGE_EXAMPLES = 10
TIMEOUT = 60.0
FILE = click.Path(dir_okay=False, writable=True, path_type=Path)
HEADER = ("operator", "kernel", "dtype", "format", "result", "passed", "declined", "worst")


@click.command()
@click.argument("plugin")
@click.option(
    "--op", "only", help="Look at this operator alone; `model` and `graph` are whole plans."
)
@click.option(
    "--examples",
    type=click.IntRange(min=1),
    help=f"Cases for each kernel with each combination of types.  [default: {EXAMPLES}, "
    f"{LARGE_EXAMPLES} with --large]",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the cases.")
@click.option("--large", is_flag=True, help="Cases of the sizes that real models have.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=TIMEOUT,
    show_default=True,
    help="Seconds that loading the plugin, or a case, may take.",
)
@click.option(
    "--jobs",
    "-j",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Processes that try kernels side by side; what they find does not depend on it.",
)
@click.option("--perf", is_flag=True, help="Time the kernels as well, in shapes of real models.")
@click.option("--json", "json_file", type=FILE, help="Write a report there.")
@click.option("--html", "html_file", type=FILE, help="The same as a page.")
def conformance(
    plugin: str,
    only: str | None,
    examples: int | None,
    seed: int,
    large: bool,
    timeout: float,
    jobs: int,
    perf: bool,
    json_file: Path | None,
    html_file: Path | None,
) -> int:
    """Try every kernel of PLUGIN against the operators' definitions.

    Kernels run in a process of their own, which may crash or hang. The worst error is in units of
    what is allowed: 1.000 would just pass. Exit code 1 means that a kernel is wrong; the smallest
    case that shows it is printed as Python.
    """
    for file in (json_file, html_file):
        if file is not None and not file.parent.is_dir():
            raise ArgumentError(f"{file}: there is no folder {file.parent} to write it to")
    count = examples or (LARGE_EXAMPLES if large else EXAMPLES)
    facts, rows = _run(plugin, only, count, seed, large, timeout, jobs)
    click.echo(table(HEADER, [_cells(r) for r in rows if r.kernel is not None]))
    lacking = [r.op for r in rows if r.status == "reference"]
    if lacking:
        click.echo(f"\nRuns as reference on the host: {', '.join(lacking)}")
    for row in rows:
        if row.scarce and row.failure is None:
            click.echo(hardly_tried(row))
    failed = [r for r in rows if r.failure is not None]
    for row in failed:
        click.echo(_failure(plugin, row))
    click.echo(f"\n{_summary(rows)}")
    speed = timed(plugin, only, timeout) if perf else None
    if json_file is not None or html_file is not None:
        from perfxlm_core.cli.conformance_page import page
        from perfxlm_core.conformance.report import report

        made = report(facts, rows, examples=count, seed=seed, large=large)
        if speed is not None:
            made["perf"] = speed
        if json_file is not None:
            json_file.write_text(json.dumps(made, indent=1) + "\n")
        if html_file is not None:
            html_file.write_text(page(made), encoding="utf-8")
    return 1 if failed else 0


def _run(
    plugin: str,
    only: str | None,
    examples: int,
    seed: int,
    large: bool,
    timeout: float,
    jobs: int,
) -> tuple[Facts, list[Row]]:
    try:
        from perfxlm_core.conformance import Session, slots
        from perfxlm_core.conformance.parallel import run_slots
    except ModuleNotFoundError as error:
        raise PerfxlmError(
            f'perfxlm conformance needs {error.name}: pip install "perfxlm[conformance]"'
        ) from None
    with Session(plugin, timeout) as session:
        todo = slots(session, only)
        rows = run_slots(session, todo, examples, seed, large, jobs)
        return session.facts, list(_shown(rows, len(todo), plugin))


def _shown(rows: Iterator[Row], count: int, plugin: str) -> Iterator[Row]:
    """The rows, with a bar on a terminal; elsewhere, where runs are long, a line for each."""
    if sys.stderr.isatty():
        with click.progressbar(
            rows, count, label=plugin, file=sys.stderr, item_show_func=_row_name
        ) as bar:
            yield from bar
        return
    for number, row in enumerate(rows, start=1):
        if row.kernel is not None:
            said = f"{_row_name(row)}: {row.status}, {row.passed} cases, {row.seconds:.0f} s"
            click.echo(f"[{number}/{count}] {said}", err=True)
        yield row


def _row_name(row: Row | None) -> str | None:
    return None if row is None else " ".join(t for t in _cells(row)[:4] if t != "-")


def _cells(row: Row) -> tuple[str, ...]:
    ran = row.passed + row.declined > 0 or row.failure is not None
    worst = f"{row.worst:.3f}" if row.passed and row.failure is None else ""
    counts = (str(row.passed), str(row.declined)) if ran else ("", "")
    return (row.op, row.kernel or "-", row.dtype, row.format, row.status, *counts, worst)


def hardly_tried(row: Row) -> str:
    """What is said of a kernel that declined nearly every case."""
    types = " ".join(t for t in (row.dtype, row.format) if t != "-")
    some = f"only {row.passed}" if row.passed else "none"
    drawn = row.passed + row.declined
    return f"\nHardly tried: {row.kernel} {types} took {some} of {drawn} cases: {row.reason}"


def _failure(plugin: str, row: Row) -> str:
    from perfxlm_core.conformance import snippet

    parts = [f"\n{row.kernel}: {row.failure}", _indented(snippet(plugin, row))]
    if row.output:
        parts.append(f"It printed:\n\n{_indented(row.output)}")
    return "\n\n".join(parts)


def _indented(text: str) -> str:
    return "\n".join(f"    {line}".rstrip() for line in text.splitlines())


def _summary(rows: Sequence[Row]) -> str:
    from perfxlm_core.conformance.report import counts

    cases = sum(r.passed for r in rows)
    return f"{cases} cases; rows: " + ", ".join(f"{n} {s}" for s, n in counts(rows).items())
