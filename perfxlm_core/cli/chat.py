"""`perfxlm chat`."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any, Protocol, cast

import click

from perfxlm_core.cli.generate import as_text, has_chat_template
from perfxlm_core.cli.options import (
    DEFAULT_MODEL,
    engine_arguments,
    engine_options,
    load,
    remote_sampling,
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

Message = dict[str, str]

HELP = "/reset forgets the conversation, /exit (or Ctrl-D) leaves, Ctrl-C stops an answer"


@click.command()
@click.argument("model", default=DEFAULT_MODEL)
@click.option("--url", help="Talk with a server's model, not one in this process.")
@click.option("--model-name", help="With --url: the model; the server's first unless given.")
@click.option("--api-key", envvar="OPENAI_API_KEY", help="With --url; also from OPENAI_API_KEY.")
@click.option(
    "--system", "--system-prompt", "system", help="Instructions at the head of the conversation."
)
@click.option("-q", "--quick", help="Send this one message, print the answer, and leave.")
@click.option("--quiet", is_flag=True, help="No statistics on stderr.")
@sampling_options
@engine_options
def chat(
    model: str,
    url: str | None,
    system: str | None,
    quick: str | None,
    quiet: bool,
    **given: Any,  # noqa: ANN401 - options of the server, the engine and of sampling
) -> None:
    """Talk with MODEL (SmolLM2-135M-Instruct unless one is named), or with a server's.

    /reset forgets the conversation; /exit or Ctrl-D leaves; Ctrl-C stops the answer.
    """
    speaker = _local(model, given) if url is None else _remote(url, given)
    conversation = Conversation(speaker, system, quiet)
    if quick is not None:
        conversation.answer(quick)
        return
    if sys.stdin is not None and sys.stdin.isatty():
        click.echo(HELP, err=True)
    for line in lines():
        if not conversation.take(line):
            break


class Speaker(Protocol):
    """Whoever answers."""

    def say(self, messages: list[Message], timing: Timing) -> str:
        """Write the answer to stdout as it comes; gives its text.

        Raises:
            RequestError: it cannot be answered, or failed half-way.
        """


class LocalModel:
    """A model in this process."""

    def __init__(self, llm: LLM, params: SamplingParams) -> None:
        self.llm = llm
        self.params = params

    def say(self, messages: list[Message], timing: Timing) -> str:
        """Answer with the model's tokens as they are generated."""
        stream = cast("Generator[RequestOutput]", self.llm.stream(messages, self.params))
        with interruptible() as interrupt, closing(stream):
            return write(stream, timing, interrupt)


def _local(model: str, given: dict[str, Any]) -> LocalModel:
    llm = load(model, engine_arguments(given))
    if not has_chat_template(llm):
        raise ModelError(f"{model} has no chat template; use: perfxlm generate --raw {model}")
    return LocalModel(llm, sampling_params(llm, given))


def _remote(url: str, given: dict[str, Any]) -> Speaker:
    from perfxlm_core.cli.remote import RemoteModel, Server

    server = Server(url, given["api_key"])
    return RemoteModel(server, given["model_name"] or server.model(), remote_sampling(given))


class Conversation:
    """Messages so far, and who goes on with them."""

    def __init__(self, speaker: Speaker, system: str | None, quiet: bool) -> None:
        self.speaker = speaker
        self.quiet = quiet
        self.opening = [] if system is None else [{"role": "system", "content": as_text(system)}]
        self.messages = list(self.opening)

    def take(self, line: str) -> bool:
        """Answer a line, or obey it; False if it asks to leave."""
        if not line.strip():
            return True
        if line.startswith("/"):
            return self._obey(line.strip())
        try:
            self.answer(line)
        except RequestError as error:
            click.echo(f"error: {error}; /reset starts anew", err=True)
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

    def answer(self, line: str) -> None:
        """Stream an answer; a failed request leaves the conversation as it was.

        Raises:
            RequestError: the request failed.
        """
        timing = Timing(time.monotonic())
        asked: list[Message] = [*self.messages, {"role": "user", "content": as_text(line)}]
        text = self.speaker.say(asked, timing)
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
