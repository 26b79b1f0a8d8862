"""`perfxlm pull`."""

from __future__ import annotations

import click

from perfxlm_core.cli.options import announce


@click.command()
@click.argument("model")
@click.option("--revision", help="Branch, tag or commit of a Hugging Face repository.")
def pull(model: str, revision: str | None) -> None:
    """Fetch MODEL, if it is not on this machine yet, and print where it is."""
    from perfxlm_core.checkpoints import pull as fetch

    click.echo(fetch(model, announce, revision=revision))
