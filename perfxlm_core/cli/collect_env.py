"""`perfxlm collect-env`."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import distributions

import click

from perfxlm_core import __version__

RELATED = ("perfxlm", "numpy", "onnx", "tokenizers", "transformers", "torch", "huggingface")
SERVING = ("starlette", "fastapi", "uvicorn", "aiohttp", "pydantic", "pyzmq", "msgspec")
SECRET = ("KEY", "TOKEN", "SECRET", "PASSWORD")


@click.command("collect-env")
def collect_env() -> None:
    """Describe this machine and what is installed, for a bug report; no secrets."""
    from perfxlm_core.cli.tables import megabytes
    from perfxlm_core.registry.plugins import load_plugins

    click.echo(f"perfxlm: {__version__}")
    click.echo(f"python: {sys.version.splitlines()[0]} ({sys.executable})")
    click.echo(f"system: {platform.platform()}")
    click.echo(f"processors: {os.cpu_count()}, {_processor()}")
    click.echo(f"memory: {megabytes(_memory())}")
    plugins = load_plugins()
    for loaded in plugins.report:
        state = loaded.error or f"{loaded.kernels} kernels, {len(loaded.devices)} devices"
        click.echo(f"plugin {loaded.name} ({loaded.distribution}): {state}")
    for device in plugins.devices:
        click.echo(f"device {device.name}: {' '.join(str(device.describe()).split())}")
    for line in (*_installed(), *_environment()):
        click.echo(line)


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            lines = [line for line in file if line.startswith("model name")]
        return lines[0].partition(":")[2].strip()
    except (OSError, IndexError):
        return platform.processor() or platform.machine()


def _memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 0


def _installed() -> list[str]:
    """Our distributions, and those that matter to them."""
    names = {d.name: d.version for d in distributions() if d.name}
    return [
        f"{name}=={names[name]}"
        for name in sorted(names, key=str.lower)
        if name.lower().startswith((*RELATED, *SERVING))
    ]


def _environment() -> list[str]:
    """Variables that change what we do; values that may be secret are not shown."""
    prefixes = ("PERFXLM_", "VLLM_", "HF_", "OMP_", "OPENAI_")
    return [
        f"{name}={'(set)' if any(word in name for word in SECRET) else value}"
        for name, value in sorted(os.environ.items())
        if name.startswith(prefixes)
    ]
