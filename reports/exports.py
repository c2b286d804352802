"""A run's figures for other programs: JSON, CSV, and the JSON of `vllm bench serve`."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from llmbench.reports.vllm_bench import write_document
from llmbench.results.answer import answer
from llmbench.results.costs import currency_of
from llmbench.results.equal_work import unequal_work
from llmbench.results.manifest import Manifest
from llmbench.results.metrics import METRICS
from llmbench.results.output_equality import equalities
from llmbench.results.own_error import own_error_ms
from llmbench.results.run import Run
from llmbench.results.samples import each_samples
from llmbench.results.statistics import Distribution
from llmbench.results.summary import SummaryRow, summarise, summarise_populations

JSON_SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Statistic:
    """One number of one metric, a line of the CSV. `low` and `high` bound its 95 % interval."""

    engine: str
    level: str
    metric: str
    unit: str
    statistic: str
    value: float
    low: float | None
    high: float | None
    n: int
    num_failed: int


def write_json(run: Run, path: Path) -> None:
    """Every figure with its unit, n and interval. JSON has no infinity: it is the string "Infinity", which `float` and
    JavaScript's `Number` read."""
    manifest = run.manifest
    document = {
        "schema_version": JSON_SCHEMA_VERSION,
        "run_id": manifest.run_id,
        "created_utc": manifest.created_utc,
        "status": manifest.status,
        "invalid": list(manifest.invalid),
        "problems": list(manifest.problems),
        "workload_digest": manifest.workload_digest,
        "prompts_digest": manifest.prompts_digest,
        "currency": currency_of(run),
        "answer": list(answer(run)),
        "unequal_work": list(unequal_work(run)),
        "output_equality": [asdict(each) for each in equalities(run)],
        "rows": [_row(manifest, row) for row in summarise(run).rows],
        "populations": [
            {"population": each.population, **_row(manifest, each.row)} for each in summarise_populations(run)
        ],
    }
    path.write_text(json.dumps(_finite(document), indent=2, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")


def write_csv(run: Run, path: Path) -> None:
    """One line per engine, level, metric and statistic; what is not defined has no line.

    A label that a spreadsheet would run as a formula starts with an apostrophe.
    """
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Statistic)])
        writer.writeheader()
        for statistic in statistics(run):
            writer.writerow({name: cell(value) for name, value in asdict(statistic).items()})


def write_parquet(run: Run, path: Path) -> None:
    """The lines of the CSV as a Parquet table, numbers and infinities as they are."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {str: pa.string(), float: pa.float64(), int: pa.int64()}
    found = list(statistics(run))
    hints = get_type_hints(Statistic)
    columns = {
        field.name: pa.array(
            [getattr(each, field.name) for each in found],
            next(types[hint] for hint in (hints[field.name], *get_args(hints[field.name])) if hint in types),
        )
        for field in fields(Statistic)
    }
    pq.write_table(pa.table(columns), path)


def write_vllm_bench(run: Run, path: Path) -> None:
    """The JSON of `vllm bench serve`, one line per engine and level, as its `--append-result` writes several."""
    with path.open("w", encoding="utf-8") as file:
        for samples in each_samples(run):
            write_document(samples.whole, file)


def statistics(run: Run) -> Iterator[Statistic]:
    """Every number of the run's summary. A unit of money names its currency."""
    currency = currency_of(run) or "currency"
    for row in summarise(run).rows:
        for metric in METRICS:
            value, unit = row.values[metric.name], metric.unit.replace("currency", currency)
            if isinstance(value, Distribution):
                for name, number, low, high in _numbers(value):
                    yield Statistic(
                        row.engine, row.level, metric.name, unit, name, number, low, high,
                        value.n, value.num_failed,
                    )  # fmt: skip
            elif value is not None:
                yield Statistic(
                    row.engine, row.level, metric.name, unit, "total", value, None, None,
                    row.num_requests, row.num_failed,
                )  # fmt: skip


def _numbers(found: Distribution) -> Iterator[tuple[str, float, float | None, float | None]]:
    for name, number in (("mean", found.mean), ("std", found.std), ("min", found.minimum), ("max", found.maximum)):
        if number is not None:
            yield name, number, None, None
    for share, quantile in found.quantiles.items():
        if quantile is not None:
            low, high = quantile.interval or (None, None)
            yield f"p{100 * share:g}", quantile.value, low, high


def _row(manifest: Manifest, row: SummaryRow) -> dict[str, Any]:
    return {
        "engine": row.engine,
        "level": row.level,
        "num_requests": row.num_requests,
        "num_failed": row.num_failed,
        "num_rounds": row.num_rounds,
        "window": row.window,
        "metrics": {metric.name: _metric(manifest, row, metric.name, metric.unit) for metric in METRICS},
    }


def _metric(manifest: Manifest, row: SummaryRow, name: str, unit: str) -> dict[str, Any] | None:
    value = row.values[name]
    if value is None:
        return None
    if not isinstance(value, Distribution):
        return {"unit": unit, "total": value}
    error_ms = own_error_ms(manifest, row.level, name)
    own = {} if error_ms is None else {"instrument_error_p99": error_ms}
    return {"unit": unit, "n": value.n, "num_failed": value.num_failed, **own} | {
        statistic: number if low is None else {"value": number, "low": low, "high": high}
        for statistic, number, low, high in _numbers(value)
    }


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def cell(value: object) -> object:
    """A value for a CSV: a text that a spreadsheet would run as a formula starts with an apostrophe."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
