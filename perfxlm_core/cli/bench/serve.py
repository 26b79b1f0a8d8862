"""`perfxlm bench serve`."""

from __future__ import annotations

import asyncio
import json
import math
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from perfxlm_core.cli.bench.metrics import chosen_metrics, limits, numbers, report
from perfxlm_core.cli.options import DEFAULT_MODEL, announce
from perfxlm_core.errors import ArgumentError

if TYPE_CHECKING:
    import aiohttp

    from perfxlm_core.cli.bench.client import Target, Timed
    from perfxlm_core.cli.bench.samples import Sample

ENDPOINTS = {
    "openai": "/v1/completions",
    "vllm": "/v1/completions",
    "openai-chat": "/v1/chat/completions",
}
"""Backend -> its usual endpoint."""
SAMPLING = (
    "temperature", "top_p", "top_k", "min_p", "frequency_penalty", "presence_penalty",
    "repetition_penalty",
)  # fmt: skip


def _sampling(command: Any) -> Any:  # noqa: ANN401 - a decorator of click's
    for name in reversed(SAMPLING):
        kind = int if name == "top_k" else float
        option = "--" + name.replace("_", "-")
        command = click.option(option, type=kind, help="Sent with each request.")(command)
    return command


@click.command(context_settings={"show_default": True})
@click.option("--backend", type=click.Choice(list(ENDPOINTS)), default="openai")
@click.option("--base-url", help="In the place of --host and --port.")
@click.option("--host", default="127.0.0.1")
@click.option("--port", default=8000)
@click.option("--endpoint", help="The backend's usual one unless given.")
@click.option("--header", multiple=True, metavar="KEY=VALUE", help="Repeatable.")
@click.option("--api-key", envvar="OPENAI_API_KEY", help="Also from OPENAI_API_KEY.")
@click.option("--model", help="The first that the server lists unless given.")
@click.option("--served-model-name", help="The model's name in requests, if it differs.")
@click.option("--tokenizer", help="Where the tokenizer is; the model's own unless given.")
@click.option("--dataset-name", type=click.Choice(["random", "custom"]), default="random")
@click.option("--dataset-path", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("--num-prompts", default=1000)
@click.option("--request-rate", default=math.inf, help="Requests a second.")
@click.option("--burstiness", default=1.0)
@click.option("--max-concurrency", type=click.IntRange(1))
@click.option("--random-input-len", "--input-len", default=1024)
@click.option("--random-output-len", "--output-len", default=128)
@click.option("--random-range-ratio", default=0.0)
@click.option("--random-prefix-len", default=0)
@click.option("--custom-output-len", default=256)
@click.option("--ignore-eos", is_flag=True)
@click.option("--extra-body", help="A JSON object, merged into each request.")
@_sampling
@click.option("--num-warmups", default=0, help="Requests that are not timed, first.")
@click.option("--ready-check-timeout-sec", default=0, help="Wait this long for the server.")
@click.option("--percentile-metrics", default="ttft,tpot,itl", help="Of ttft, tpot, itl, e2el.")
@click.option("--metric-percentiles", default="99", help="Separated by commas.")
@click.option("--goodput", multiple=True, metavar="METRIC:MS", help="Repeatable.")
@click.option("--save-result", is_flag=True, help="Write the numbers as JSON.")
@click.option("--save-detailed", is_flag=True, help="Each request as well.")
@click.option("--result-dir", type=click.Path(path_type=Path, file_okay=False))
@click.option("--result-filename")
@click.option("--label", help="Stands in the result's file name; the backend unless given.")
@click.option("--metadata", multiple=True, metavar="KEY=VALUE", help="Kept in the result.")
@click.option("--seed", default=0)
@click.option("--disable-tqdm", is_flag=True, help="No lines about progress.")
def serve(**given: Any) -> None:  # noqa: ANN401 - read by name below
    """Time an OpenAI-compatible server under load.

    Prompts are random tokens, or lines of a file (--dataset-name custom). Needs perfxlm[serve].
    """
    result = asyncio.run(bench(given))
    if given["save_result"]:
        path = _result_path(given, result)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result))
        announce(f"written to {path}")


async def bench(given: dict[str, Any]) -> dict[str, Any]:
    """Everything between the options and the printed table; gives the result."""
    from perfxlm_core.cli.bench.client import first_model
    from perfxlm_core.cli.bench.traffic import Traffic, connected, send

    traffic = Traffic(given["request_rate"], given["burstiness"], given["max_concurrency"])
    metrics, percentiles = chosen_metrics(given["percentile_metrics"]), _percentiles(given)
    goodput = limits(given["goodput"])
    base_url = (given["base_url"] or f"http://{given['host']}:{given['port']}").rstrip("/")
    say = (lambda line: None) if given["disable_tqdm"] else announce
    async with connected(_headers(given)) as session:
        await _ready(session, base_url, given["ready_check_timeout_sec"])
        name = given["served_model_name"] or given["model"] or await first_model(session, base_url)
        target = _target(given, base_url, name)
        samples = _samples(given, given["tokenizer"] or given["model"] or name)
        await _try_out(session, target, samples, given["num_warmups"])
        say(f"{len(samples)} requests to {target.url}")
        start = time.perf_counter()
        results = await send(session, target, samples, traffic, given["seed"])
        duration = time.perf_counter() - start
    found = numbers(results, duration, percentiles, goodput)
    click.echo(report(found, metrics, percentiles, _settings(traffic.concurrency, traffic.rate)))
    for error in sorted({r.error for r in results if r.error})[:3]:
        click.echo(f"error: {error}", err=True)
    return _result(given, target, found, results)


def _headers(given: dict[str, Any]) -> dict[str, str]:
    headers = dict(_pair("--header", text) for text in given["header"])
    if given["api_key"]:
        headers["Authorization"] = f"Bearer {given['api_key']}"
    return headers


def _pair(option: str, text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator:
        raise ArgumentError(f"{option} {text!r}; expected KEY=VALUE")
    return key, value


def _percentiles(given: dict[str, Any]) -> list[float]:
    try:
        found = [float(p) for p in given["metric_percentiles"].split(",")]
    except ValueError:
        found = [-1.0]
    if not all(0 <= p <= 100 for p in found):
        raise ArgumentError(
            f"--metric-percentiles is {given['metric_percentiles']!r}; expected numbers from 0 to "
            "100, separated by commas"
        )
    return found


def _target(given: dict[str, Any], base_url: str, model: str) -> Target:
    from perfxlm_core.cli.bench.client import Target

    endpoint = given["endpoint"] or ENDPOINTS[given["backend"]]
    extra = {name: given[name] for name in SAMPLING if given[name] is not None}
    if given["ignore_eos"]:
        extra["ignore_eos"] = True
    extra |= _extra_body(given["extra_body"])
    return Target(base_url + endpoint, model, "/chat/" in endpoint, extra)


def _extra_body(text: str | None) -> dict[str, Any]:
    try:
        found = json.loads(text) if text is not None else {}
    except ValueError as error:
        raise ArgumentError(f"--extra-body is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise ArgumentError(f"--extra-body is {text!r}; expected a JSON object")
    return found


def _samples(given: dict[str, Any], tokenizer_name: str) -> list[Sample]:
    from perfxlm_core.checkpoints import open_tokenizer, pull
    from perfxlm_core.cli.bench.samples import Lengths, file_samples, random_samples
    from perfxlm_core.errors import ModelError

    try:
        tokenizer = open_tokenizer(pull(tokenizer_name, announce))
    except ModelError as error:
        raise ArgumentError(
            f"no tokenizer for {tokenizer_name!r} ({error}); give --tokenizer, for example "
            f"--tokenizer {DEFAULT_MODEL}"
        ) from error
    count = given["num_prompts"]
    if given["dataset_name"] == "custom":
        if given["dataset_path"] is None:
            raise ArgumentError("--dataset-name custom needs --dataset-path, a file of JSON lines")
        length = given["custom_output_len"]
        return file_samples(given["dataset_path"], tokenizer, count, length)
    names = ("random_input_len", "random_output_len", "random_range_ratio", "random_prefix_len")
    return random_samples(tokenizer, count, Lengths(*(given[n] for n in names)), given["seed"])


async def _ready(session: aiohttp.ClientSession, base_url: str, seconds: float) -> None:
    """Wait until the server answers at all, as long as was asked for."""
    from perfxlm_core.cli.bench.client import first_model

    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            await first_model(session, base_url)
            return
        except ArgumentError:
            await asyncio.sleep(0.5)


async def _try_out(
    session: aiohttp.ClientSession, target: Target, samples: list[Sample], warmups: int
) -> None:
    """One request that must succeed, and others that warm the server up; none is timed.

    Raises:
        ArgumentError: the server does not answer as it should.
    """
    from perfxlm_core.cli.bench.client import ask
    from perfxlm_core.cli.bench.samples import Sample

    first = await ask(session, target, Sample("Hello", 1, 1))
    if first.error:
        raise ArgumentError(f"a first request to {target.url} failed: {first.error}")
    await asyncio.gather(*(ask(session, target, s) for s in samples[:warmups]))


def _settings(concurrency: int | None, rate: float) -> dict[str, object]:
    settings: dict[str, object] = {}
    if concurrency is not None:
        settings["Maximum request concurrency:"] = concurrency
    if not math.isinf(rate):
        settings["Request rate configured (RPS):"] = rate
    return settings


def _result(
    given: dict[str, Any], target: Target, found: dict[str, Any], results: list[Timed]
) -> dict[str, Any]:
    """The result's JSON, by vLLM's names."""
    rate = given["request_rate"]
    result = {
        "date": datetime.now().strftime("%Y%m%d-%H%M%S"),
        "endpoint_type": given["backend"],
        "backend": given["backend"],
        "label": given["label"],
        "model_id": target.model,
        "tokenizer_id": given["tokenizer"] or given["model"] or target.model,
        "num_prompts": given["num_prompts"],
        **dict(_pair("--metadata", text) for text in given["metadata"]),
        "request_rate": rate if math.isfinite(rate) else "inf",
        "burstiness": given["burstiness"],
        "max_concurrency": given["max_concurrency"],
        **found,
    }
    return result | _details(results) if given["save_detailed"] else result


def _details(results: list[Timed]) -> dict[str, Any]:
    return {
        "input_lens": [r.prompt_len for r in results],
        "output_lens": [r.output_tokens for r in results],
        "ttfts": [r.ttft for r in results],
        "itls": [r.itl for r in results],
        "start_times": [r.started for r in results],
        "generated_texts": [r.text for r in results],
        "errors": [r.error for r in results],
    }


def _result_path(given: dict[str, Any], result: dict[str, Any]) -> Path:
    folder = given["result_dir"] or Path()
    if given["result_filename"]:
        return Path(folder, given["result_filename"])
    label = given["label"] or given["backend"]
    limit = given["max_concurrency"]
    concurrency = "" if limit is None else f"-concurrency{limit}"
    model = result["model_id"].rsplit("/", 1)[-1].replace(":", "-")
    rate = f"{float(result['request_rate']):g}qps"
    return Path(folder, f"{label}-{rate}{concurrency}-{model}-{result['date']}.json")
