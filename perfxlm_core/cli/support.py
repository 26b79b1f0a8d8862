"""`perfxlm support`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from perfxlm_core.errors import ArgumentError, DeviceError, PerfxlmError, PluginError

if TYPE_CHECKING:
    from perfxlm_core.conformance.support import Support

GLANCE, THOROUGH = 20, 200
DOCUMENTS = (Path("README.md"), Path("docs/support.md"))
"""Files of a checkout with tables between markers."""
REMEDY = "perfxlm support --update --write brings them up to date"


@click.command()
@click.option(
    "--from",
    "files",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Take the results of `perfxlm conformance PLUGIN --json FILE`; repeatable.",
)
@click.option(
    "--examples",
    type=click.IntRange(min=1),
    help=f"Cases for each kernel and combination of types.  [default: {GLANCE}, "
    f"{THOROUGH} with --update]",
)
@click.option("--update", is_flag=True, help="Keep the results in docs/support.")
@click.option("--write", is_flag=True, help="Write the tables of the documents from docs/support.")
@click.option("--check", is_flag=True, help="Only say what in docs/support or the tables is stale.")
@click.option(
    "--folder",
    default=Path(),
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Checkout to work in.  [default: the current folder]",
)
def support(
    files: Sequence[Path],
    examples: int | None,
    update: bool,
    write: bool,
    check: bool,
    folder: Path,
) -> int:
    """Show which models and operators run on which devices, from conformance runs.

    Without options every installed plugin that finds a device is tried with a few cases. A
    checkout keeps thorough results in docs/support, and tables made of them in its documents.
    """
    _need_the_kit()
    if update or write or check:
        _documents(folder)
    if check:
        return _check(folder)
    if update or not write:
        fresh = []
        for one in _fresh(files, examples or (THOROUGH if update else GLANCE)):
            fresh.append(one)
            if update:
                _keep(folder, one)
        if not fresh:
            raise DeviceError("no installed plugin found a device on this machine")
        if not update:
            _show(fresh)
    if write:
        _write(folder)
    return 0


def _need_the_kit() -> None:
    try:
        import perfxlm_core.conformance  # noqa: F401
    except ModuleNotFoundError as error:
        raise PerfxlmError(
            f'perfxlm support needs {error.name}: pip install "perfxlm[conformance]"'
        ) from None


def _fresh(files: Sequence[Path], examples: int) -> Iterator[Support]:
    """Results from files, or from runs of the installed plugins."""
    from perfxlm_core.conformance.support import summarized
    from perfxlm_core.graph.recipe import known_recipes

    packages = known_recipes()
    for file in files:
        try:
            yield summarized(json.loads(file.read_text()), packages)
        except (ValueError, ArgumentError) as error:
            raise ArgumentError(f"{file}: {error}") from None
    for plugin in () if files else _plugins():
        try:
            yield summarized(_run(plugin, examples), packages)
        except (DeviceError, PluginError) as error:
            click.echo(f"left out: {error}", err=True)


def _plugins() -> list[str]:
    """Names of the installed plugins, restricted as `PERFXLM_PLUGINS` says."""
    from perfxlm_core.registry.plugins import GROUP, chosen_names

    chosen = chosen_names()
    names = sorted({point.name for point in entry_points(group=GROUP)})
    return [n for n in names if chosen is None or n in chosen]


def _run(plugin: str, examples: int) -> dict[str, Any]:
    """The report of a run."""
    from perfxlm_core.conformance import Session, run_slot, slots
    from perfxlm_core.conformance.report import report

    with Session(plugin) as session:
        todo = slots(session)
        with click.progressbar(todo, label=plugin, file=sys.stderr) as bar:
            rows = [run_slot(session, slot, examples) for slot in bar]
        return report(session.facts, rows, examples=examples, seed=0, large=False)


def _show(known: Sequence[Support]) -> None:
    from perfxlm_core.conformance.support import models_table, operators_table, origins

    click.echo("\n\n".join([models_table(known), operators_table(known), origins(known)]))


def _keep(folder: Path, one: Support) -> None:
    from perfxlm_core.conformance.support import FOLDER

    (folder / FOLDER).mkdir(exist_ok=True)
    (folder / FOLDER / f"{one.device}.json").write_text(one.plain())


def _documents(folder: Path) -> list[Path]:
    """The documents with tables.

    Raises:
        ArgumentError: the folder is not a checkout.
    """
    found = [folder / name for name in DOCUMENTS if (folder / name).is_file()]
    if len(found) != len(DOCUMENTS):
        wanted = " and ".join(map(str, DOCUMENTS))
        raise ArgumentError(f"{folder.resolve()} lacks {wanted}; use --folder CHECKOUT")
    return found


def _write(folder: Path) -> None:
    from perfxlm_core.conformance.support import document, filled, load_all

    contents = document(load_all(folder))
    for file in _documents(folder):
        file.write_text(filled(file.read_text(), contents))


def _check(folder: Path) -> int:
    """Say what is stale; 1 if anything is."""
    stale = [*_stale_tables(folder), *_stale_results(folder)]
    for line in stale:
        click.echo(line)
    if stale:
        click.echo(f"{len(stale)} things are stale; {REMEDY}")
    return 1 if stale else 0


def _stale_tables(folder: Path) -> Iterator[str]:
    from perfxlm_core.conformance.support import document, filled, load_all

    contents = document(load_all(folder))
    for file in _documents(folder):
        text = file.read_text()
        if "<!-- support:" not in text:
            yield f"{file}: there is no table of support"
        elif filled(text, contents) != text:
            yield f"{file}: its tables are not those of docs/support"


def _stale_results(folder: Path) -> Iterator[str]:
    """Compare the results with what the installed plugins offer now; nothing is computed."""
    from perfxlm_core.conformance import Session, slots
    from perfxlm_core.conformance.support import differences, load_all

    known = {s.device: s for s in load_all(folder)}
    for plugin in _plugins():
        try:
            with Session(plugin) as session:
                kind = session.facts.device.split(":")[0]
                if kind not in known:
                    yield f"{kind}: docs/support/{kind}.json is missing"
                    continue
                present = [
                    (s.op, s.kernel.name if s.kernel else None, s.variant.dtype, s.variant.label)
                    for s in slots(session)
                ]
                facts = session.facts
                described = str(facts.description["description"])
                yield from differences(known[kind], present, facts.distribution, described)
        except DeviceError as error:
            click.echo(f"not compared: {error}", err=True)
        except PerfxlmError as error:
            yield f"{plugin}: {error}"
