"""Telemetry for other programs: each reading with the round it was made in, as CSV, Parquet or OpenMetrics."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from llmbench.reports.exports import cell
from llmbench.reports.openmetrics import escaped
from llmbench.results.run import Run
from llmbench.results.telemetry import spec_of

NS_PER_S = 1e9


class TelemetryRow(NamedTuple):
    """One value that was read, or one gap. `t_s` counts from the run's origin, `round_s` from the start of the round
    that it was read in; `level`, `round` and `round_s` are None between rounds."""

    t_s: float
    engine: str
    level: str | None
    round: int | None
    round_s: float | None
    source: str
    instance: str
    metric: str | None
    unit: str | None
    le: float | None
    value: float | None
    gap: str | None


def telemetry_rows(run: Run) -> Iterator[TelemetryRow]:
    """Everything that was read, in the order in which it was."""
    origin_ns, trials = run.manifest.clock.origin_ns, run.manifest.trials
    names = ("t_ns", "engine", "source", "instance", "metric", "le", "value", "gap")
    for t_ns, engine, source, instance, metric, le, value, gap in zip(
        *(run.telemetry.column(name).to_pylist() for name in names), strict=True
    ):
        trial = next(
            (
                each
                for each in trials
                if each.engine == engine and each.start_ns <= t_ns and (each.end_ns is None or t_ns <= each.end_ns)
            ),
            None,
        )
        yield TelemetryRow(
            t_s=(t_ns - origin_ns) / NS_PER_S,
            engine=engine,
            level=None if trial is None else trial.level,
            round=None if trial is None else trial.round,
            round_s=None if trial is None else (t_ns - trial.start_ns) / NS_PER_S,
            source=source,
            instance=instance,
            metric=metric,
            unit=None if (spec := spec_of(metric)) is None else spec.unit,
            le=le,
            value=value,
            gap=gap,
        )


def write_telemetry_csv(run: Run, path: Path) -> None:
    """A line for each TelemetryRow; what a spreadsheet would run as a formula starts with an apostrophe."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(TelemetryRow._fields)
        for row in telemetry_rows(run):
            writer.writerow([cell(value) for value in row])


def write_telemetry_parquet(run: Run, path: Path) -> None:
    """The lines of the CSV as a Parquet table."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {"t_s": "float64", "round": "int32", "round_s": "float64", "le": "float64", "value": "float64"}
    schema = pa.schema([(name, pa.type_for_alias(types.get(name, "string"))) for name in TelemetryRow._fields])
    pq.write_table(pa.Table.from_pylist([row._asdict() for row in telemetry_rows(run)], schema), path)


def write_telemetry_openmetrics(run: Run, path: Path) -> None:
    """Every value with its time, as `promtool tsdb create-blocks-from openmetrics` takes it.

    No type is claimed: a histogram of which a bucket was not read would be an invalid one.
    """
    path.write_text("".join(f"{line}\n" for line in _openmetrics(run)), encoding="utf-8")


def _openmetrics(run: Run) -> Iterator[str]:
    zero_s = datetime.fromisoformat(run.manifest.clock.origin_utc).timestamp()
    families: dict[str, dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for row in telemetry_rows(run):
        if row.metric is None or row.value is None:
            continue
        told = {"engine": row.engine, "device": row.instance, "le": "" if row.le is None else _number(row.le)}
        labels = ",".join(f'{name}="{escaped(text)}"' for name, text in told.items() if text)
        families[row.metric][labels].append((zero_s + row.t_s, row.value))
    for metric, series in sorted(families.items()):
        name, spec = f"llmbench_server_{metric}", spec_of(metric)
        yield f"# TYPE {name} unknown"
        if spec is not None:
            yield f"# HELP {name} {escaped(f'{spec.title} ({spec.unit})')}"
        for labels, points in series.items():
            yield from (f"{name}{{{labels}}} {_number(value)} {when:.6f}" for when, value in points)
    yield "# EOF"


def _number(value: float) -> str:
    return "+Inf" if math.isinf(value) else repr(value)
