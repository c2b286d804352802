"""What /metrics shows: gauges and totals are the engine's own, as of its last step; histograms are the server's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from llmbench.reference_engine.outputs import EngineStats
from llmbench.reference_engine.request_times import RequestTimes
from llmbench.reference_engine.server.engine_metrics import COUNTERS, GAUGES, LATENCY_BUCKETS_S, TIME_TO_FIRST_TOKEN

_LENGTH_BUCKETS = tuple(digit * 10**power for power in range(5) for digit in (1, 2, 5))
_TOKEN_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5)


class _EngineCollector(Collector):
    """EngineStats as metrics, read when somebody asks."""

    def __init__(self, model_name: str, stats: Callable[[], EngineStats | None]) -> None:
        self._model_name = model_name
        self._stats = stats

    def collect(self) -> Iterable[Metric]:
        stats = self._stats()
        if stats is None:
            return
        for each in GAUGES:
            gauge = GaugeMetricFamily(each.name, each.text, labels=["model_name"])
            gauge.add_metric([self._model_name], each.value(stats))
            yield gauge
        for each in COUNTERS:
            counter = CounterMetricFamily(each.name, each.text, labels=["model_name"])
            counter.add_metric([self._model_name], each.value(stats))
            yield counter


class ServerMetrics:
    """The registry of one server."""

    def __init__(self, model_name: str, stats: Callable[[], EngineStats | None]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_EngineCollector(model_name, stats))
        labels = ["model_name"]

        def histogram(name: str, text: str, buckets: Sequence[float]) -> Histogram:
            family = Histogram(name, text, labels, registry=self._registry, buckets=buckets)
            return family.labels(model_name)

        self.time_to_first_token = histogram(*TIME_TO_FIRST_TOKEN, LATENCY_BUCKETS_S)
        self.inter_token_latency = histogram(
            "vllm:inter_token_latency_seconds", "Between two steps that brought tokens.", _TOKEN_BUCKETS_S
        )
        self.e2e_latency = histogram(
            "vllm:e2e_request_latency_seconds", "From a request's acceptance to its last token.", LATENCY_BUCKETS_S
        )
        self.time_per_output_token = histogram(
            "vllm:request_time_per_output_token_seconds",
            "Of a finished request: from its first token to its last, per token after the first.",
            _TOKEN_BUCKETS_S,
        )
        # As vLLM's, of finished requests alone and by the engine's clock.
        self.queue_time = histogram(
            "vllm:request_queue_time_seconds", "From the engine's receipt to the first KV blocks.", LATENCY_BUCKETS_S
        )
        self.prefill_time = histogram(
            "vllm:request_prefill_time_seconds", "From the first KV blocks to the first token.", LATENCY_BUCKETS_S
        )
        self.decode_time = histogram(
            "vllm:request_decode_time_seconds", "From the first token to the last.", LATENCY_BUCKETS_S
        )
        self.inference_time = histogram(
            "vllm:request_inference_time_seconds", "From the first KV blocks to the last token.", LATENCY_BUCKETS_S
        )
        self.prompt_tokens = histogram(
            "vllm:request_prompt_tokens", "Prompt tokens of a finished request.", _LENGTH_BUCKETS
        )
        self.generation_tokens = histogram(
            "vllm:request_generation_tokens", "Tokens that a finished request got.", _LENGTH_BUCKETS
        )
        self._finished = Counter(
            "vllm:request_success",
            "Requests by the way they ended.",
            [*labels, "finished_reason"],
            registry=self._registry,
        )
        self._model_name = model_name

    def count_end(self, finished_reason: str) -> None:
        self._finished.labels(self._model_name, finished_reason).inc()

    def exposition(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self._registry)


class RequestClock:
    """Stamps one request's life into the histograms."""

    __slots__ = ("_accepted_ns", "_first_ns", "_last_ns", "_metrics", "_num_prompt_tokens")

    def __init__(self, metrics: ServerMetrics, num_prompt_tokens: int) -> None:
        self._metrics = metrics
        self._num_prompt_tokens = num_prompt_tokens
        self._accepted_ns = time.perf_counter_ns()
        self._first_ns: int | None = None
        self._last_ns: int | None = None

    def tokens_came(self) -> None:
        now_ns = time.perf_counter_ns()
        if self._last_ns is None:
            self._first_ns = now_ns
            self._metrics.time_to_first_token.observe((now_ns - self._accepted_ns) / 1e9)
        else:
            self._metrics.inter_token_latency.observe((now_ns - self._last_ns) / 1e9)
        self._last_ns = now_ns

    def finished(self, reason: str, num_output_tokens: int, times: RequestTimes) -> None:
        metrics = self._metrics
        metrics.queue_time.observe(times.queued_ns / 1e9)
        metrics.prefill_time.observe(times.prefill_ns / 1e9)
        metrics.decode_time.observe(times.decode_ns / 1e9)
        metrics.inference_time.observe((times.prefill_ns + times.decode_ns) / 1e9)
        metrics.e2e_latency.observe((time.perf_counter_ns() - self._accepted_ns) / 1e9)
        metrics.prompt_tokens.observe(self._num_prompt_tokens)
        metrics.generation_tokens.observe(num_output_tokens)
        # What came all in one step, as beams do, has no time between its tokens.
        if self._first_ns is not None and self._last_ns is not None and self._last_ns > self._first_ns:
            metrics.time_per_output_token.observe((self._last_ns - self._first_ns) / 1e9 / (num_output_tokens - 1))
        metrics.count_end(reason)

    def given_up(self) -> None:
        self._metrics.count_end("abort")
