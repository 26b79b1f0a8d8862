"""Statistics of a server, under vLLM's names, so that dashboards made for it work.

Recording happens in the event loop for every token, so values are plain numbers here, and
prometheus_client only writes them when a page is asked for.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from typing import TYPE_CHECKING, Any

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from prometheus_client import Metric

    from perfxlm_core.serve.messages import Delta, StepStats
    from perfxlm_core.serve.stream import RequestStream

SECONDS = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0,
    240.0, 480.0, 960.0, 1920.0, 7680.0,
)  # fmt: skip
FIRST_TOKEN = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
)  # fmt: skip
BETWEEN_TOKENS = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
    40.0, 80.0,
)  # fmt: skip
TOKENS = (
    1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000,
)  # fmt: skip
STEP_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
FEW = (1, 2, 5, 10, 20)
STEP_SECONDS = (0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)

REASONS = ("stop", "length", "abort", "error", "repetition")
PHASES = ("schedule", "run", "sample")

COUNTERS: Mapping[str, str] = {
    "vllm:prefix_cache_queries": "Prompt tokens that were looked for in the prefix cache.",
    "vllm:prefix_cache_hits": "Prompt tokens that the prefix cache had.",
    "vllm:num_preemptions": "Times that a running request gave its memory back.",
    "vllm:prompt_tokens": "Tokens of prompts.",
    "vllm:prompt_tokens_cached": "Tokens of prompts that the prefix cache had.",
    "vllm:generation_tokens": "Tokens generated.",
}
HISTOGRAMS: Mapping[str, tuple[str, Sequence[float]]] = {
    "vllm:request_prompt_tokens": ("Tokens of a prompt.", TOKENS),
    "vllm:request_generation_tokens": ("Tokens generated for a request.", TOKENS),
    "vllm:iteration_tokens_total": ("Tokens that a step computed.", STEP_TOKENS),
    "vllm:request_max_num_generation_tokens": ("Tokens of the longest completion.", TOKENS),
    "vllm:request_params_n": ("The parameter n.", FEW),
    "vllm:request_params_max_tokens": ("The parameter max_tokens.", TOKENS),
    "vllm:time_to_first_token_seconds": ("From arrival to the first token.", FIRST_TOKEN),
    "vllm:inter_token_latency_seconds": ("Between a request's tokens.", BETWEEN_TOKENS),
    "vllm:request_time_per_output_token_seconds": ("A request's mean of those.", BETWEEN_TOKENS),
    "vllm:e2e_request_latency_seconds": ("From arrival to the end.", SECONDS),
    "vllm:request_queue_time_seconds": ("From arrival to the first step.", SECONDS),
    "vllm:request_inference_time_seconds": ("From the first step to the last token.", SECONDS),
    "vllm:request_prefill_time_seconds": ("From the first step to the first token.", SECONDS),
    "vllm:request_decode_time_seconds": ("From the first token to the last.", SECONDS),
    "vllm:request_num_preemptions": ("Times that a request gave its memory back.", FEW),
    "vllm:request_prefill_kv_computed_tokens": ("Prompt tokens that were computed.", TOKENS),
}


class Histogram:
    """Counts by bucket; `add` is O(log buckets).

    Args:
        limits: Upper ends of the buckets, included, in order; one without end is added.
    """

    def __init__(self, limits: Sequence[float]) -> None:
        self.limits = limits
        self.counts = [0] * (len(limits) + 1)
        self.sum = 0.0

    def add(self, value: float, times: int = 1) -> None:
        """Count a value."""
        self.counts[bisect_left(self.limits, value)] += times
        self.sum += value * times

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative counts by limit, as Prometheus has them."""
        total = 0
        found: list[tuple[str, float]] = []
        for limit, count in zip((*self.limits, float("inf")), self.counts, strict=True):
            total += count
            found.append(("+Inf" if limit == float("inf") else str(float(limit)), total))
        return found


class Metrics(Collector):
    """The server's statistics; an `Observer` of the engine's client.

    Args:
        model: The label `model_name`.
        facts: Of the cache, for `vllm:cache_config_info`.
    """

    def __init__(self, model: str, facts: Mapping[str, Any]) -> None:
        self._labels = {"model_name": model, "engine": "0"}
        self._facts = {k: str(v) for k, v in facts.items()}
        self._stats: StepStats | None = None
        self._created = time.time()
        self._counters = dict.fromkeys(COUNTERS, 0)
        self._histograms = {n: Histogram(limits) for n, (_, limits) in HISTOGRAMS.items()}
        self._phases = {phase: Histogram(STEP_SECONDS) for phase in PHASES}
        self._ended = dict.fromkeys(REASONS, 0)
        self._last_token: dict[int, float] = {}
        self.deaths = 0
        self.registry = CollectorRegistry()
        self.registry.register(self)
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)

    # -- recording ----------------------------------------------------------------------------

    def stepped(self, stats: StepStats, num_tokens: int) -> None:
        """A step has generated `num_tokens`."""
        self._stats = stats
        if stats.num_tokens == 0:
            return
        self._counters["vllm:generation_tokens"] += num_tokens
        self._histograms["vllm:iteration_tokens_total"].add(stats.num_tokens)
        phases = self._phases
        phases["schedule"].add(stats.schedule)
        phases["run"].add(stats.run)
        phases["sample"].add(stats.sample)

    def received(self, stream: RequestStream, delta: Delta, now: float) -> None:
        """A request got a delta."""
        last = self._last_token.get(stream.number)
        if last is not None:
            self._histograms["vllm:inter_token_latency_seconds"].add(now - last)
        elif delta.token_ids:
            self._first(stream, delta, now)
        self._last_token[stream.number] = now
        if delta.finished:
            self._finished(stream, delta, now)

    def _first(self, stream: RequestStream, delta: Delta, now: float) -> None:
        prompt, cached = len(stream.prompt_token_ids), delta.num_cached_tokens or 0
        counters, histograms = self._counters, self._histograms
        counters["vllm:prompt_tokens"] += prompt
        counters["vllm:prefix_cache_queries"] += prompt
        counters["vllm:prefix_cache_hits"] += cached
        counters["vllm:prompt_tokens_cached"] += cached
        first = now - stream.stats.queued_ts
        histograms["vllm:time_to_first_token_seconds"].add(first)
        histograms["vllm:request_prefill_kv_computed_tokens"].add(prompt - cached)

    def _finished(self, stream: RequestStream, delta: Delta, now: float) -> None:
        add, params = self._add, stream.params
        queued, prompt = stream.stats.queued_ts, len(stream.prompt_token_ids)
        add("e2e_request_latency_seconds", now - queued)
        add("request_prompt_tokens", prompt)
        add("request_params_n", params.n)
        if params.max_tokens is not None:
            add("request_params_max_tokens", params.max_tokens)
        add("request_num_preemptions", delta.num_preemptions)
        self._counters["vllm:num_preemptions"] += delta.num_preemptions
        if delta.times is None:
            return
        scheduled, first, last = delta.times
        add("request_queue_time_seconds", scheduled - queued)
        add("request_inference_time_seconds", last - scheduled)
        add("request_prefill_time_seconds", first - scheduled)
        add("request_decode_time_seconds", last - first)

    def ended(self, stream: RequestStream, reason: str) -> None:
        """A request has ended, however."""
        self._ended[reason] = self._ended.get(reason, 0) + 1
        self._last_token.pop(stream.number, None)
        self._add("request_generation_tokens", stream.num_tokens)
        self._add("request_max_num_generation_tokens", stream.num_tokens / stream.params.n)

    def died(self) -> None:
        """The engine process has ended, and all its requests with it."""
        self.deaths += 1
        self._stats = None

    def _add(self, name: str, value: float) -> None:
        self._histograms[f"vllm:{name}"].add(max(0.0, value))

    # -- writing ------------------------------------------------------------------------------

    def page(self) -> bytes:
        """All of it, in Prometheus' text form."""
        return generate_latest(self.registry)

    def collect(self) -> Iterable[Metric]:
        """The metrics now."""
        yield from self._gauges()
        yield from self._counts()
        for name, (text, _) in HISTOGRAMS.items():
            yield self._histogram(name, text, [({}, self._histograms[name])])
        phases = [({"phase": phase}, found) for phase, found in self._phases.items()]
        yield self._histogram("perfxlm:step_seconds", "Time of a step by phase.", phases)
        facts = InfoMetricFamily("vllm:cache_config", "The KV cache.", labels=["engine"])
        facts.add_metric(["0"], self._facts)
        yield facts

    def _gauges(self) -> Iterator[Metric]:
        stats = self._stats
        running, waiting = (stats.num_running, stats.num_waiting) if stats else (0, 0)
        usage = stats.kv_cache_usage if stats else 0.0
        sleeping = int(stats is not None and stats.sleeping)
        yield self._gauge("vllm:num_requests_running", "Requests in steps.", running)
        yield self._gauge("vllm:num_requests_waiting", "Requests in the queue.", waiting)
        yield self._gauge("vllm:kv_cache_usage_perc", "Share of the KV blocks in use.", usage)
        yield self._labelled(
            GaugeMetricFamily,
            "vllm:num_requests_waiting_by_reason",
            "Requests in the queue, by reason.",
            "reason",
            {"capacity": waiting, "deferred": 0},
        )
        yield self._labelled(
            GaugeMetricFamily,
            "vllm:engine_sleep_state",
            "Whether the engine sleeps.",
            "sleep_state",
            {"awake": 1 - sleeping, "weights_offloaded": 0, "discard_all": sleeping},
        )
        yield self._gauge("perfxlm:engine_deaths", "Engine processes that died.", self.deaths)

    def _counts(self) -> Iterator[Metric]:
        for name, text in COUNTERS.items():
            family = CounterMetricFamily(name, text, labels=[*self._labels])
            family.add_metric([*self._labels.values()], self._counters[name], self._created)
            yield family
        cached = self._counters["vllm:prompt_tokens_cached"]
        computed = self._counters["vllm:prompt_tokens"] - cached
        sources = {"local_compute": computed, "local_cache_hit": cached, "external_kv_transfer": 0}
        by_source = "vllm:prompt_tokens_by_source", "Tokens of prompts by source.", "source"
        yield self._labelled(CounterMetricFamily, *by_source, sources)
        success = "vllm:request_success", "Requests that ended, by reason.", "finished_reason"
        yield self._labelled(CounterMetricFamily, *success, self._ended)

    def _gauge(self, name: str, text: str, value: float) -> Metric:
        family = GaugeMetricFamily(name, text, labels=[*self._labels])
        family.add_metric([*self._labels.values()], value)
        return family

    def _labelled(
        self, kind: type[Any], name: str, text: str, label: str, values: Mapping[str, float]
    ) -> Metric:
        family: Metric = kind(name, text, labels=[*self._labels, label])
        for key, value in values.items():
            family.add_metric([*self._labels.values(), key], value)  # type: ignore[attr-defined]
        return family

    def _histogram(
        self, name: str, text: str, parts: Sequence[tuple[dict[str, str], Histogram]]
    ) -> Metric:
        family = HistogramMetricFamily(name, text, labels=[*self._labels, *parts[0][0]])
        for labels, one in parts:
            values = [*self._labels.values(), *labels.values()]
            family.add_metric(values, one.buckets(), one.sum)
        return family
