"""`perfxlm chat`."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any, cast

import click

from perfxlm_core.cli.generate import as_text, has_chat_template
from perfxlm_core.cli.options import (
    DEFAULT_MODEL,
    engine_arguments,
    engine_options,
    load,
    sampling_options,
    sampling_params,
)
from perfxlm_core.cli.stream import Timing, interruptible, write
from perfxlm_core.errors import ModelError, RequestError

if TYPE_CHECKING:
    from collections.abc import Generator

    from perfxlm_core.engine.llm import LLM
    from perfxlm_core.engine.outputs import RequestOutput
    from perfxlm_core.engine.params import SamplingParams

HELP = "/reset forgets the conversation, /exit (or Ctrl-D) leaves, Ctrl-C stops an answer"


@click.command()
@click.argument("model", default=DEFAULT_MODEL)
@click.option("--system", help="Instructions at the head of the conversation.")
@click.option("-q", "--quiet", is_flag=True, help="No statistics on stderr.")
@sampling_options
@engine_options
def chat(
    model: str,
    system: str | None,
    quiet: bool,
    **given: Any,  # noqa: ANN401 - options of the engine and of sampling
) -> None:
    """Talk with MODEL (SmolLM2-135M-Instruct unless one is named).

    /reset forgets the conversation; /exit or Ctrl-D leaves; Ctrl-C stops the answer.
    """
    llm = load(model, engine_arguments(given))
    if not has_chat_template(llm):
        raise ModelError(f"{model} has no chat template; use: perfxlm generate --raw {model}")
    conversation = Conversation(llm, sampling_params(llm, given), system, quiet)
    if sys.stdin is not None and sys.stdin.isatty():
        click.echo(HELP, err=True)
    for line in lines():
        if not conversation.take(line):
            break


class Conversation:
    """Messages so far, and the model that goes on with them."""

    def __init__(self, llm: LLM, params: SamplingParams, system: str | None, quiet: bool) -> None:
        self.llm = llm
        self.params = params
        self.quiet = quiet
        self.opening = [] if system is None else [{"role": "system", "content": as_text(system)}]
        self.messages = list(self.opening)

    def take(self, line: str) -> bool:
        """Answer a line, or obey it; False if it asks to leave."""
        if not line.strip():
            return True
        if line.startswith("/"):
            return self._obey(line.strip())
        self._answer(line)
        return True

    def _obey(self, command: str) -> bool:
        if command in ("/exit", "/quit"):
            return False
        if command == "/reset":
            self.messages = list(self.opening)
            click.echo("the conversation is forgotten", err=True)
        else:
            click.echo(HELP, err=True)
        return True

    def _answer(self, line: str) -> None:
        """Stream an answer; a failed request leaves the conversation as it was."""
        timing = Timing(time.monotonic())
        try:
            asked = [*self.messages, {"role": "user", "content": as_text(line)}]
            stream = cast("Generator[RequestOutput]", self.llm.stream(asked, self.params))
            with interruptible() as interrupt, closing(stream):
                text = write(stream, timing, interrupt)
        except RequestError as error:
            click.echo(f"error: {error}; /reset starts anew", err=True)
            return
        self.messages = [*asked, {"role": "assistant", "content": text}]
        if not self.quiet:
            click.echo(timing.summary(), err=True)


def lines() -> Iterator[str]:
    """What the user types, a line at a time, until the input ends."""
    if sys.stdin is None or not sys.stdin.isatty():
        yield from (line.rstrip("\n") for line in sys.stdin or ())
        return
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - gives input() history and editing
    while True:
        try:
            yield input("> ")
        except KeyboardInterrupt:
            click.echo(f"\n{HELP}", err=True)
        except EOFError:
            click.echo(err=True)
            return
