"""`perfxlm bench latency` and `perfxlm bench throughput`: the engine in this process."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from perfxlm_core.cli.bench.metrics import percentile
from perfxlm_core.cli.options import (
    DEFAULT_MODEL,
    announce,
    engine_arguments,
    engine_options,
    fetch,
)
from perfxlm_core.errors import ArgumentError, RequestError

if TYPE_CHECKING:
    from perfxlm_core.checkpoints import Tokenizer
    from perfxlm_core.cli.bench.samples import Sample
    from perfxlm_core.engine.llm import LLM

F = TypeVar("F", bound=Callable[..., Any])
PERCENTILES = (10, 25, 50, 75, 90, 99)


def _shared(command: F) -> F:
    """Decorator: the options that both commands have."""
    for option in (
        click.option("--model", default=DEFAULT_MODEL, show_default=True),
        click.option("--max-num-seqs", type=click.IntRange(1), help="Requests that run at once."),
        click.option("--n", default=1, show_default=True, help="Answers to each prompt."),
        click.option("--seed", default=0, show_default=True),
        click.option("--disable-detokenize", is_flag=True, help="Tokens only, no text."),
        click.option("--output-json", type=click.Path(path_type=Path, dir_okay=False)),
    ):
        command = option(command)
    return engine_options(command)


def _llm(given: dict[str, Any]) -> LLM:
    from perfxlm_core.engine.llm import LLM

    arguments = engine_arguments(given)
    path = str(fetch(given["model"], arguments))
    return LLM(path, max_num_seqs=given["max_num_seqs"], seed=given["seed"], **arguments)


@click.command()
@click.option("--input-len", default=32, show_default=True)
@click.option("--output-len", default=128, show_default=True)
@click.option("--batch-size", default=8, show_default=True)
@click.option("--num-iters-warmup", default=10, show_default=True)
@click.option("--num-iters", default=30, show_default=True)
@_shared
def latency(**given: Any) -> None:  # noqa: ANN401 - read by name below
    """Time one batch of requests from its start to its last token."""
    llm = _llm(given)
    prompts = _random_ids(llm, given["batch_size"], given["input_len"], given["seed"])
    lengths = [given["output_len"]] * len(prompts)
    for _ in range(given["num_iters_warmup"]):
        _seconds(llm, prompts, lengths, given)
    latencies = [_seconds(llm, prompts, lengths, given) for _ in range(given["num_iters"])]
    if not latencies:
        raise ArgumentError("--num-iters is 0; expected at least 1")
    ordered = sorted(latencies)
    found = {p: percentile(ordered, p) for p in PERCENTILES}
    average = sum(latencies) / len(latencies)
    click.echo(f"Avg latency: {average} seconds")
    for percent, seconds in found.items():
        click.echo(f"{percent}% percentile latency: {seconds} seconds")
    _write(
        given["output_json"],
        {"avg_latency": average, "latencies": latencies, "percentiles": found},
    )


@click.command()
@click.option("--dataset-name", type=click.Choice(["random", "custom"]), default="random")
@click.option("--dataset-path", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("--input-len", "--random-input-len", default=1024, show_default=True)
@click.option("--output-len", "--random-output-len", default=128, show_default=True)
@click.option("--num-prompts", default=1000, show_default=True)
@_shared
def throughput(**given: Any) -> None:  # noqa: ANN401 - read by name below
    """Time many requests, all handed over at once."""
    llm = _llm(given)
    samples = _samples(llm, given)
    prompts = [s.prompt for s in samples]
    seconds = _seconds(llm, prompts, [s.max_tokens for s in samples], given)
    tokens_out = sum(s.max_tokens for s in samples) * given["n"]
    tokens = tokens_out + sum(s.prompt_tokens for s in samples)
    click.echo(
        f"Throughput: {len(samples) / seconds:.2f} requests/s, {tokens / seconds:.2f} total "
        f"tokens/s, {tokens_out / seconds:.2f} output tokens/s"
    )
    _write(
        given["output_json"],
        {
            "elapsed_time": seconds,
            "num_requests": len(samples),
            "total_num_tokens": tokens,
            "requests_per_second": len(samples) / seconds,
            "tokens_per_second": tokens / seconds,
        },
    )


def _samples(llm: LLM, given: dict[str, Any]) -> list[Sample]:
    from perfxlm_core.cli.bench.samples import Lengths, file_samples, random_samples

    count, length = given["num_prompts"], given["output_len"]
    tokenizer = cast("Tokenizer", llm.get_tokenizer())
    if given["dataset_name"] == "random":
        lengths = Lengths(given["input_len"], length)
        return random_samples(tokenizer, count, lengths, given["seed"])
    if given["dataset_path"] is None:
        raise ArgumentError("--dataset-name custom needs --dataset-path, a file of JSON lines")
    return file_samples(given["dataset_path"], tokenizer, count, length)


def _random_ids(llm: LLM, count: int, length: int, seed: int) -> list[dict[str, list[int]]]:
    draw, size = random.Random(seed), llm.llm_engine.runner.vocab_size
    return [{"prompt_token_ids": draw.choices(range(size), k=length)} for _ in range(count)]


def _seconds(
    llm: LLM, prompts: Sequence[Any], lengths: Sequence[int], given: dict[str, Any]
) -> float:
    """How long the prompts take, without what earlier rounds left in the prefix cache."""
    from perfxlm_core.engine.params import SamplingParams

    llm.reset_prefix_cache()
    params = [
        SamplingParams(
            n=given["n"], max_tokens=n, ignore_eos=True, detokenize=not given["disable_detokenize"]
        )
        for n in lengths
    ]
    start = time.perf_counter()
    outputs = llm.generate(prompts, params, use_tqdm=False)
    seconds = time.perf_counter() - start
    for output in outputs:
        if output.error is not None:
            raise RequestError(f"a request failed: {output.error}")
    return seconds


def _write(path: Path | None, result: dict[str, Any]) -> None:
    if path is not None:
        path.write_text(json.dumps(result, indent=4))
        announce(f"written to {path}")
