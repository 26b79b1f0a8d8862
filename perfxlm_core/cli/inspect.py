"""`perfxlm inspect`."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from perfxlm_core.cli.options import DEFAULT_MODEL, engine_arguments, engine_options, fetch
from perfxlm_core.errors import ArgumentError

Report = dict[str, Any]
"""What `perfxlm_core.graph.plan.Plan.report` gives, with the model's facts and the limits."""


@click.command()
@click.argument("model", default=DEFAULT_MODEL)
@click.option("--json", "as_json", is_flag=True, help="Everything, as JSON.")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Write a page.")
@click.option("--all", "every", is_flag=True, help="Each node on its own line.")
@click.option("--max-num-seqs", type=int, default=1, show_default=True, help="Requests at once.")
@engine_options
def inspect(
    model: str,
    as_json: bool,
    html: Path | None,
    every: bool,
    max_num_seqs: int,
    **given: Any,  # noqa: ANN401 - options of the engine
) -> None:
    """Show what running MODEL would do, without loading it.

    A kernel for each node with the reasons against the others, and where every byte goes. With
    --html FILE the same as a page that needs no network: the graph, the kernels, the memory.
    """
    report = examine(model, engine_arguments(given), max_num_seqs)
    if html is not None:
        from perfxlm_core.cli.report_page import page

        write_whole(html, page(report))
        click.echo(f"wrote {html}", err=True)
    if as_json:
        click.echo(json.dumps(report, indent=1))
    elif html is None:
        from perfxlm_core.cli.report_text import text

        click.echo(text(report, every=every))


def examine(model: str, arguments: dict[str, Any], max_num_seqs: int) -> Report:
    """Plan a model and report; takes no memory for it.

    Raises:
        PerfxlmError: it cannot be found, opened or planned.
    """
    from perfxlm_core.checkpoints import open_checkpoint
    from perfxlm_core.engine.config import EngineConfig
    from perfxlm_core.graph.loading import LoadOptions, plan_model
    from perfxlm_core.registry.plugins import load_plugins

    path = fetch(model, arguments)
    config = EngineConfig(model=str(path), max_num_seqs=max_num_seqs, **arguments)
    checkpoint = open_checkpoint(path)
    plugins = load_plugins()
    device = plugins.device(config.device)
    options = LoadOptions(**{f.name: getattr(config, f.name) for f in fields(LoadOptions)})
    plan, limits = plan_model(checkpoint, device, plugins.registry, options)
    about = {
        "path": str(path),
        "kind": checkpoint.kind,
        "architectures": checkpoint.architectures,
        "bytes": checkpoint.total_bytes,
    }
    return {"model": about, "limits": vars(limits), **plan.report()}


def write_whole(path: Path, content: str) -> None:
    """Write a file so that it is there whole or not at all."""
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(content, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise ArgumentError(f"{path} cannot be written: {error.strerror}") from error
