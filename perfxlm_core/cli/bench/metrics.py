"""Numbers from timed requests, by vLLM's names."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from perfxlm_core.errors import ArgumentError

if TYPE_CHECKING:
    from perfxlm_core.cli.bench.client import Timed

TITLES = {
    "ttft": ("Time to First Token", "TTFT"),
    "tpot": ("Time per Output Token (excl. 1st token)", "TPOT"),
    "itl": ("Inter-token Latency", "ITL"),
    "e2el": ("End-to-end Latency", "E2EL"),
}
"""Metric -> headline, and its name in a line."""
WIDTH = 50


def numbers(
    results: Sequence[Timed],
    duration: float,
    percentiles: Sequence[float] = (99.0,),
    goodput: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Totals, rates, and each metric's mean, median, deviation and percentiles in milliseconds.

    Args:
        goodput: Metric -> milliseconds that a request must keep to be counted as a good one.
    """
    done = [r for r in results if not r.error]
    tokens_in, tokens_out = sum(r.prompt_len for r in done), sum(r.output_tokens for r in done)
    peak_tokens, peak_requests = _peaks(done)
    good = None if not goodput else sum(_keeps(r, goodput) for r in done) / duration
    found: dict[str, Any] = {
        "duration": duration,
        "completed": len(done),
        "failed": len(results) - len(done),
        "total_input_tokens": tokens_in,
        "total_output_tokens": tokens_out,
        "request_throughput": len(done) / duration,
        "request_goodput": good,
        "output_throughput": tokens_out / duration,
        "total_token_throughput": (tokens_in + tokens_out) / duration,
        "max_output_tokens_per_s": peak_tokens,
        "max_concurrent_requests": peak_requests,
    }
    for metric in TITLES:
        values = [1000 * v for r in done for v in _values(r, metric)]
        found |= _spread(metric, values, percentiles)
    return found


def _values(timed: Timed, metric: str) -> list[float]:
    if metric == "ttft":
        return [timed.ttft]
    if metric == "itl":
        return timed.itl
    if metric == "e2el":
        return [timed.latency]
    if timed.output_tokens < 2:
        return []
    return [(timed.latency - timed.ttft) / (timed.output_tokens - 1)]


def _keeps(timed: Timed, limits: Mapping[str, float]) -> bool:
    return all(1000 * v <= limit for name, limit in limits.items() for v in _values(timed, name))


def _spread(metric: str, values: Sequence[float], percentiles: Sequence[float]) -> dict[str, float]:
    ordered = sorted(values) or [0.0]
    return {
        f"mean_{metric}_ms": statistics.fmean(ordered),
        f"median_{metric}_ms": statistics.median(ordered),
        f"std_{metric}_ms": statistics.pstdev(ordered),
        **{f"p{p:g}_{metric}_ms": percentile(ordered, p) for p in percentiles},
    }


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Of sorted values, between neighbours in proportion, as NumPy's default has it."""
    place = (len(ordered) - 1) * percent / 100
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def _peaks(done: Sequence[Timed]) -> tuple[float, int]:
    """Most tokens in any one second, and most requests under way at once."""
    if not done:
        return 0.0, 0
    begin = min(r.started for r in done)
    tokens = [0.0] * (int(max(r.started + r.latency for r in done) - begin) + 1)
    for r in done:
        moment = r.started - begin + r.ttft
        each = r.output_tokens / (len(r.itl) + 1)
        for gap in (0.0, *r.itl):
            moment += gap
            tokens[min(int(moment), len(tokens) - 1)] += each
    return max(tokens), _most_at_once([(r.started, r.started + r.latency) for r in done])


def _most_at_once(spans: Sequence[tuple[float, float]]) -> int:
    changes = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans])
    return max(accumulate(change for _, change in changes))


def report(
    found: Mapping[str, Any],
    metrics: Sequence[str],
    percentiles: Sequence[float],
    settings: Mapping[str, object],
) -> str:
    """The numbers for people, laid out as vLLM does."""
    lines = [" Serving Benchmark Result ".center(WIDTH, "=")]
    lines += [_line("Successful requests:", found["completed"])]
    lines += [_line("Failed requests:", found["failed"])]
    lines += [_line(label, value) for label, value in settings.items()]
    lines += [_line(label, found[key]) for label, key in _TOTALS if found[key] is not None]
    for metric in metrics:
        title, short = TITLES[metric]
        lines.append(title.center(WIDTH, "-"))
        lines.append(_line(f"Mean {short} (ms):", found[f"mean_{metric}_ms"]))
        lines.append(_line(f"Median {short} (ms):", found[f"median_{metric}_ms"]))
        lines += [_line(f"P{p:g} {short} (ms):", found[f"p{p:g}_{metric}_ms"]) for p in percentiles]
    return "\n".join([*lines, "=" * WIDTH])


_TOTALS = (
    ("Benchmark duration (s):", "duration"),
    ("Total input tokens:", "total_input_tokens"),
    ("Total generated tokens:", "total_output_tokens"),
    ("Request throughput (req/s):", "request_throughput"),
    ("Request goodput (req/s):", "request_goodput"),
    ("Output token throughput (tok/s):", "output_throughput"),
    ("Peak output token throughput (tok/s):", "max_output_tokens_per_s"),
    ("Peak concurrent requests:", "max_concurrent_requests"),
    ("Total token throughput (tok/s):", "total_token_throughput"),
)


def _line(label: str, value: object) -> str:
    return f"{label:<40} {value:<10.2f}" if isinstance(value, float) else f"{label:<40} {value:<10}"


def chosen_metrics(text: str) -> list[str]:
    """`--percentile-metrics`.

    Raises:
        ArgumentError: one is unknown.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in TITLES]
    if unknown:
        raise ArgumentError(f"unknown metric {unknown[0]!r}; known: {', '.join(TITLES)}")
    return names


def limits(pairs: Sequence[str]) -> dict[str, float]:
    """`--goodput`: METRIC:MILLISECONDS.

    Raises:
        ArgumentError: one is not of this form.
    """
    found = {}
    for pair in pairs:
        name, _, value = pair.partition(":")
        try:
            found[chosen_metrics(name)[0]] = float(value)
        except (ValueError, IndexError):
            raise ArgumentError(f"--goodput {pair!r}; expected for example ttft:200") from None
    return found
