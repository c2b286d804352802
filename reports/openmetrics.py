"""A run's figures as OpenMetrics text, for a Prometheus push gateway or a node exporter's text collector."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from llmbench.results.costs import currency_of
from llmbench.results.metric import MetricSpec
from llmbench.results.metrics import METRICS
from llmbench.results.run import Run
from llmbench.results.statistics import Distribution
from llmbench.results.summary import SummaryRow, summarise

# OpenMetrics wants base units in names; our table has those that people read.
_UNITS: Mapping[str, tuple[str, float]] = {
    "ms": ("seconds", 1e-3),
    "s": ("seconds", 1.0),
    "tokens": ("tokens", 1.0),
    "attempts": ("per_request", 1.0),
    "share": ("ratio", 1.0),
    "tokens/s": ("tokens_per_second", 1.0),
    "requests/s": ("requests_per_second", 1.0),
    "J/token": ("joules_per_token", 1.0),
    "currency/1M tokens": ("per_million_tokens", 1.0),
}

_Labels = tuple[tuple[str, str], ...]


def write_openmetrics(run: Run, path: Path) -> None:
    """One gauge per metric, with labels for engine, level and quantile, and the currency of what is money; what is not
    defined has no sample."""
    path.write_text("".join(f"{line}\n" for line in openmetrics(run)), encoding="utf-8")


def openmetrics(run: Run) -> Iterator[str]:
    """The lines of the text, `# EOF` included."""
    manifest, rows = run.manifest, summarise(run).rows
    yield "# TYPE llmbench_run info"
    yield "# HELP llmbench_run The run that the other metrics are of."
    identity = {
        "run_id": manifest.run_id,
        "workload_digest": manifest.workload_digest,
        "prompts_digest": manifest.prompts_digest,
        "status": manifest.status,
        "valid": "false" if manifest.invalid else "true",
    }
    yield _sample("llmbench_run_info", identity.items(), 1.0)
    yield "# TYPE llmbench_requests gauge"
    yield "# HELP llmbench_requests Measured requests by outcome."
    for row in rows:
        for outcome, num in (("ok", row.num_requests - row.num_failed), ("failed", row.num_failed)):
            yield _sample("llmbench_requests", (*_where(row), ("outcome", outcome)), num)
    for metric in METRICS:
        money = (("currency", currency_of(run) or ""),) if "currency" in metric.unit else ()
        yield from _family(metric, rows, money)
    yield "# EOF"


def _family(metric: MetricSpec, rows: tuple[SummaryRow, ...], money: _Labels) -> Iterator[str]:
    unit, factor = _UNITS[metric.unit]
    name = f"llmbench_{metric.name}_{unit}"
    samples = [
        _sample(name, (*_where(row), *money, *labels), value * factor)
        for row in rows
        for labels, value in _values(row.values[metric.name])
    ]
    if samples:
        yield f"# TYPE {name} gauge"
        yield f"# UNIT {name} {unit}"
        yield f"# HELP {name} {escaped(metric.formula)}"
        yield from samples


def _values(found: Distribution | float | None) -> Iterator[tuple[_Labels, float]]:
    if not isinstance(found, Distribution):
        if found is not None:
            yield (), found
        return
    if found.mean is not None:
        yield (("statistic", "mean"),), found.mean
    for share, quantile in found.quantiles.items():
        if quantile is not None:
            yield (("statistic", "quantile"), ("quantile", f"{share:g}")), quantile.value


def _where(row: SummaryRow) -> _Labels:
    return (("engine", row.engine), ("level", row.level))


def _sample(name: str, labels: Iterable[tuple[str, str]], value: float) -> str:
    told = ",".join(f'{label}="{escaped(text)}"' for label, text in labels)
    return f"{name}{{{told}}} {'+Inf' if math.isinf(value) else repr(float(value))}"


def escaped(text: str) -> str:
    """A label's value or a help text as OpenMetrics quotes it."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
