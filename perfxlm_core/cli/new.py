"""`perfxlm new plugin` and `perfxlm new model`."""

from __future__ import annotations

import os
from pathlib import Path

import click

DIRECTORY = click.option(
    "--directory",
    type=click.Path(path_type=Path),
    default=Path(),
    help="Where the new folder goes; the current folder unless given.",
)


@click.group()
def new() -> None:
    """Write a new distribution that installs and passes its tests, to go on from."""


@new.command()
@click.argument("name")
@DIRECTORY
def plugin(name: str, directory: Path) -> None:
    """Write a hardware plugin, perfxlm-NAME.

    It has a device in the host's memory, one kernel, and the conformance suite as its tests;
    every operator that it lacks runs as the reference. docs/plugins.md goes on from there.
    """
    from perfxlm_core.authoring import new_plugin

    folder = new_plugin(name, directory)
    module = folder.name.replace("-", "_")
    short = folder.name.removeprefix("perfxlm-")
    _report(folder, f"src/{module}/kernels.py", f"perfxlm conformance {short}")


@new.command()
@click.argument("name")
@click.option("--architecture", help="As config.json has it; NameForCausalLM unless given.")
@DIRECTORY
def model(name: str, architecture: str | None, directory: Path) -> None:
    """Write a model package, perfxlm-NAME.

    It has a decoder's recipe and a test of its logits. docs/models.md goes on from there.
    """
    from perfxlm_core.authoring import new_model

    folder = new_model(name, directory, architecture)
    module = folder.name.replace("-", "_")
    _report(folder, f"src/{module}/__init__.py", "perfxlm models")


def _report(folder: Path, page: str, look: str) -> None:
    shown = folder if folder.is_absolute() else f".{os.sep}{folder}"
    click.echo(f"wrote {shown}; begin with {page}")
    click.echo(f'next: pip install -e "{shown}[test]" && pytest {folder}')
    click.echo(f"then: {look}")
