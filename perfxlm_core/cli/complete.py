"""`perfxlm complete`."""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from perfxlm_core.cli.chat import lines
from perfxlm_core.cli.generate import as_text
from perfxlm_core.cli.options import remote_sampling, sampling_options
from perfxlm_core.cli.remote import DEFAULT_URL, RemoteModel, Server
from perfxlm_core.cli.stream import Timing
from perfxlm_core.errors import RequestError


@click.command()
@click.option("--url", default=DEFAULT_URL, show_default=True)
@click.option("--model-name", help="The server's first unless given.")
@click.option("--api-key", envvar="OPENAI_API_KEY", help="Also from OPENAI_API_KEY.")
@click.option("-q", "--quick", help="Continue this one text, and leave.")
@click.option("--stats", is_flag=True, help="Tokens and their speed, on stderr.")
@sampling_options
def complete(
    url: str,
    model_name: str | None,
    api_key: str | None,
    quick: str | None,
    stats: bool,
    **given: Any,  # noqa: ANN401 - options of sampling
) -> None:
    """Continue texts through an OpenAI-compatible server, each line of the input on its own."""
    server = Server(url, api_key)
    model = RemoteModel(server, model_name or server.model(), remote_sampling(given))
    if quick is not None:
        _complete(model, quick, stats)
        return
    if sys.stdin is not None and sys.stdin.isatty():
        click.echo("a text to continue; Ctrl-D leaves, Ctrl-C stops an answer", err=True)
    for line in lines():
        if line.strip():
            _try(model, line, stats)


def _try(model: RemoteModel, text: str, stats: bool) -> None:
    """A failed request is told, and the next line is next."""
    try:
        _complete(model, text, stats)
    except RequestError as error:
        click.echo(f"error: {error}", err=True)


def _complete(model: RemoteModel, text: str, stats: bool) -> None:
    timing = Timing(time.monotonic())
    model.go_on(as_text(text), timing)
    if stats:
        click.echo(timing.summary(), err=True)
