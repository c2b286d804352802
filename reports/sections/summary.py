"""The table of every engine at every load level, and below it every figure there is."""

from __future__ import annotations

from llmbench.reports.material import Material
from llmbench.reports.section import Section, View
from llmbench.results.metric import SampleMetric
from llmbench.results.metrics import METRICS
from llmbench.results.statistics import QUANTILES

_LATENCIES = (("ttft", "TTFT"), ("itl", "ITL"), ("tpot", "TPOT"), ("e2e", "E2E"))
_TOTALS = (
    ("output_throughput", "Output", "tokens/s"),
    ("request_throughput", "Requests", "per s"),
    ("goodput", "Goodput", "req/s"),
    ("slo_attainment", "SLO met", ""),
)


def _view(material: Material) -> View | None:
    rows = material.summary.rows
    if not rows:
        return None
    sampled = [
        metric
        for metric in METRICS
        if isinstance(metric, SampleMetric) and any(row.distribution(metric.name) is not None for row in rows)
    ]
    return {
        "rows": rows,
        "latencies": [
            (name, title) for name, title in _LATENCIES if any(row.distribution(name) is not None for row in rows)
        ],
        "totals": [column for column in _TOTALS if any(row.total(column[0]) is not None for row in rows)],
        "sampled": sampled,
        "shares": QUANTILES,
    }


SUMMARY = Section("summary", "All engines, side by side", "Summary table", _view, "summary.html")
