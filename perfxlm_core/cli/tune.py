"""`perfxlm tune`."""

from __future__ import annotations

from typing import Any

import click

from perfxlm_core.cli.options import DEFAULT_MODEL, fetch
from perfxlm_core.errors import ArgumentError

STEP = 64
"""Tokens, and sequences, of the largest step that is measured."""


@click.command()
@click.argument("device")
@click.argument("model", default=DEFAULT_MODEL)
@click.option("--dtype", default="auto", show_default=True, help="Of activations.")
@click.option("--revision", help="Branch, tag or commit of a Hugging Face repository.")
def tune(device: str, model: str, dtype: str, revision: str | None) -> None:
    """Measure which shapes of DEVICE's kernels suit MODEL best, and keep the winners.

    Models with weights of the same shapes and formats use them from then on. Let the machine do
    nothing else meanwhile. Measuring again replaces what was kept.
    """
    lines = measure(device, model, dtype, revision)
    for line in lines:
        click.echo(line)
    click.echo(f"{len(lines)} shapes measured")


def measure(device: str, model: str, dtype: str = "auto", revision: str | None = None) -> list[str]:
    """Load a model on a device that measures; lines about what was found.

    Raises:
        ArgumentError: the device has nothing to tune.
        PerfxlmError: the model cannot be loaded.
    """
    from perfxlm_core.checkpoints import open_checkpoint
    from perfxlm_core.graph.loading import LoadOptions, load_runner
    from perfxlm_core.registry.plugins import load_plugins

    plugins = load_plugins()
    found: Any = plugins.device(device)
    if not hasattr(found, "tuning"):
        raise ArgumentError(f"{found.name} has nothing to tune: its kernels choose by themselves")
    checkpoint = open_checkpoint(fetch(model, {"device": device, "revision": revision}))
    options = LoadOptions(
        dtype=dtype, max_model_len=STEP, max_num_seqs=STEP, max_num_batched_tokens=STEP
    )
    with found.tuning() as lines:
        load_runner(checkpoint, found, plugins.registry, options)
    return list(lines)
