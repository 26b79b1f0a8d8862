"""`perfxlm plugins` and `perfxlm devices`."""

from __future__ import annotations

import click

from perfxlm_core.cli.tables import megabytes, table
from perfxlm_core.registry.plugins import Loaded, load_plugins


@click.command()
def plugins() -> None:
    """List hardware plugins and what became of each.

    A plugin that fails to load is a line here and nothing else: the others work.
    PERFXLM_PLUGINS=cpu,opencl restricts which plugins are loaded.
    """
    report = load_plugins().report
    if not report:
        click.echo('no plugin is installed; install one, for example: pip install "perfxlm[cpu]"')
        return
    rows = [(one.name, one.distribution, *_state(one)) for one in report]
    click.echo(table(("plugin", "distribution", "state", ""), rows))


def _state(one: Loaded) -> tuple[str, str]:
    if one.error is not None:
        kind, _, text = one.error.partition(": ")
        return ("no devices", text) if kind == "DeviceError" else ("broken", one.error)
    if not one.devices:
        return "no devices", "nothing that it drives was found on this machine"
    names = ", ".join(device.name for device in one.devices)
    return "works", f"{names}; {one.kernels} kernels"


@click.command()
def devices() -> None:
    """List devices, with what was found out about each."""
    loaded = load_plugins()
    loaded.device()
    for device in loaded.devices:
        info = device.describe()
        click.echo(f"{info.name}  {info.description}")
        facts = {
            "plugin": info.vendor,
            "memory": f"{megabytes(info.total_memory)}, {megabytes(device.free_memory())} free",
            "dtypes": ", ".join(device.dtypes()),
            **info.details,
        }
        for label, text in facts.items():
            click.echo(f"    {label}: {text}")
