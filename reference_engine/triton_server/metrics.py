"""The engine's metrics beside Triton's own, at its metrics port, by the names that the engine's own server has."""

from __future__ import annotations

from typing import Any

import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]  # exists in Triton's stub only

from llmbench.reference_engine.outputs import EngineStats
from llmbench.reference_engine.server.engine_metrics import COUNTERS, GAUGES, LATENCY_BUCKETS_S, TIME_TO_FIRST_TOKEN


class EngineMetrics:
    """For one thread alone: the server dies when two of them change metrics. Every change is a round trip to it, so
    that only what has changed is told."""

    def __init__(self, model_name: str) -> None:
        self._labels = {"model_name": model_name}
        # A family must outlive its metrics.
        self._families: list[Any] = []
        family = pb_utils.MetricFamily
        self._gauges = [self._made(each.name, each.text, family.GAUGE) for each in GAUGES]
        self._counters = [self._made(each.name, each.text, family.COUNTER) for each in COUNTERS]
        self._first_token = self._made(*TIME_TO_FIRST_TOKEN, family.HISTOGRAM, buckets=list(LATENCY_BUCKETS_S))
        self._told: dict[str, float] = {}
        self._first_tokens_s: list[float] = []

    def first_token_took(self, seconds: float) -> None:
        """Keep it for when the metrics are told next."""
        self._first_tokens_s.append(seconds)

    def tell(self, stats: EngineStats) -> None:
        for each, gauge in zip(GAUGES, self._gauges, strict=True):
            value = float(each.value(stats))
            if value != self._told.get(each.name):
                gauge.set(value)
                self._told[each.name] = value
        for each, counter in zip(COUNTERS, self._counters, strict=True):
            value = float(each.value(stats))
            if value != self._told.get(each.name, 0.0):
                counter.increment(value - self._told.get(each.name, 0.0))
                self._told[each.name] = value
        for seconds in self._first_tokens_s:
            self._first_token.observe(seconds)
        self._first_tokens_s.clear()

    def _made(self, name: str, text: str, kind: Any, **options: Any) -> Any:
        family = pb_utils.MetricFamily(name=name, description=text, kind=kind)
        self._families.append(family)
        return family.Metric(labels=self._labels, **options)
