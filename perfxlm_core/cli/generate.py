"""`perfxlm generate`."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import click

from perfxlm_core.cli.options import (
    DEFAULT_MODEL,
    engine_arguments,
    engine_options,
    load,
    sampling_options,
    sampling_params,
)
from perfxlm_core.errors import RequestError

if TYPE_CHECKING:
    from perfxlm_core.engine.llm import LLM


@click.command()
@click.argument("model", default=DEFAULT_MODEL)
@click.option("-p", "--prompt", help="The prompt; without it, standard input is read.")
@click.option("--system", help="Instructions put before the prompt, if the model is one for chat.")
@click.option("--raw", is_flag=True, help="Continue the prompt as it is: no chat template.")
@click.option("-q", "--quiet", is_flag=True, help="No statistics on stderr.")
@sampling_options
@engine_options
def generate(
    model: str,
    prompt: str | None,
    system: str | None,
    raw: bool,
    quiet: bool,
    **given: Any,  # noqa: ANN401 - options of the engine and of sampling
) -> None:
    """Answer a prompt with MODEL (SmolLM2-135M-Instruct unless one is named), streaming.

    A model with a chat template gets the prompt as a user's message. Where the model's authors
    recommend no sampling, temperature 0.7 and top-p 0.95 are used.
    """
    from perfxlm_core.cli.stream import Timing, write

    text = _prompt(prompt)
    llm = load(model, engine_arguments(given))
    params = sampling_params(llm, given)
    request = text if raw or not has_chat_template(llm) else _messages(system, text)
    if system is not None and isinstance(request, str):
        raise click.UsageError("--system needs a model with a chat template, and no --raw")
    timing = Timing(time.monotonic())
    write(llm.stream(request, params), timing)
    if not quiet:
        click.echo(timing.summary(), err=True)


def _prompt(given: str | None) -> str:
    if given is None:
        if sys.stdin is None or sys.stdin.isatty():
            raise click.UsageError("no prompt: pass one with -p, or on standard input")
        given = sys.stdin.read().rstrip("\n")
    if not given:
        raise click.UsageError("the prompt is empty")
    return as_text(given)


def as_text(given: str) -> str:
    """What the user wrote, read as UTF-8 where the locale could not make characters of it.

    Raises:
        RequestError: it is no UTF-8 text.
    """
    try:
        return given.encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeError as error:
        raise RequestError(f"the input is not UTF-8 text: {given!r:.80}; convert it") from error


def _messages(system: str | None, text: str) -> list[dict[str, str]]:
    before = [] if system is None else [{"role": "system", "content": as_text(system)}]
    return [*before, {"role": "user", "content": text}]


def has_chat_template(llm: LLM) -> bool:
    """Whether the model says how a conversation is written."""
    return bool(getattr(llm.get_tokenizer(), "chat_template", None))
