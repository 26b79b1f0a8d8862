"""What an engine counts, in the form of vLLM's `get_metrics`."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perfxlm_core.engine.engine import EngineStats
    from perfxlm_core.engine.outputs import RequestOutput

SECONDS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.08, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
"""Upper bounds of the buckets of times."""


@dataclass
class Metric:
    """Anything that is measured."""

    name: str
    labels: dict[str, str]


@dataclass
class Counter(Metric):
    """What only grows."""

    value: int


@dataclass
class Gauge(Metric):
    """What goes up and down."""

    value: float


@dataclass
class Histogram(Metric):
    """Measurements counted in buckets.

    Attributes:
        buckets: How many were at most the upper bound; the last is `+Inf`.
    """

    count: int
    sum: float
    buckets: dict[str, int]


@dataclass
class Vector(Metric):
    """Several counters of one name."""

    values: list[int]


@dataclass
class Times:
    """A growing histogram."""

    bounds: Sequence[float] = SECONDS
    total: float = 0.0
    counts: list[int] = field(default_factory=lambda: [0] * (len(SECONDS) + 1))

    def add(self, seconds: float) -> None:
        """Count a measurement."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds

    def histogram(self, name: str, labels: dict[str, str]) -> Histogram:
        """As it is now."""
        bounds = [*map(str, self.bounds), "+Inf"]
        cumulative = list(accumulate(self.counts))
        return Histogram(name, labels, cumulative[-1], self.total, dict(zip(bounds, cumulative)))  # noqa: B905


class EngineMetrics:
    """Counts finished requests.

    Args:
        model: The label `model_name`.
    """

    def __init__(self, model: str) -> None:
        self._labels = {"model_name": model, "engine": "0"}
        self._reasons: dict[str, int] = {}
        self._prompt = self._generated = self._cached = self._preempted = 0
        self._first, self._whole = Times(), Times()

    def note(self, output: RequestOutput, now: float) -> None:
        """Count a request that has finished.

        Args:
            now: Of the monotonic clock.
        """
        stats = output.metrics
        for completion in output.outputs:
            reason = str(completion.finish_reason)
            self._reasons[reason] = self._reasons.get(reason, 0) + 1
        self._prompt += len(output.prompt_token_ids or ())
        self._cached += output.num_cached_tokens or 0
        if stats is not None:
            self._generated += stats.num_generation_tokens
            self._preempted += stats.num_preemptions
            self._first.add(stats.first_token_latency)
            self._whole.add(now - stats.queued_ts)

    def all(self, stats: EngineStats) -> list[Metric]:
        """Everything, by vLLM's names."""
        named = self._labels
        counters = {
            "prompt_tokens": self._prompt,
            "generation_tokens": self._generated,
            "num_preemptions": self._preempted,
            "prefix_cache_queries": self._prompt,
            "prefix_cache_hits": self._cached,
        }
        gauges = {
            "num_requests_running": stats.num_running,
            "num_requests_waiting": stats.num_waiting,
            "kv_cache_usage_perc": stats.kv_cache_usage,
        }
        return [
            *(Gauge(f"vllm:{n}", named, float(v)) for n, v in gauges.items()),
            *(Counter(f"vllm:{n}", named, v) for n, v in counters.items()),
            *(
                Counter("vllm:request_success", {**named, "finished_reason": reason}, count)
                for reason, count in self._reasons.items()
            ),
            self._first.histogram("vllm:time_to_first_token_seconds", named),
            self._whole.histogram("vllm:e2e_request_latency_seconds", named),
        ]
