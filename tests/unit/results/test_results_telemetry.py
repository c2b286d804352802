"""Telemetry on disk: readable while it is written, after a crash, and when the run is finished."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from made_runs import entry, manifest

from llmbench.results.run import Run
from llmbench.results.run_directory import RunDirectory
from llmbench.results.telemetry import TELEMETRY, TELEMETRY_JOURNAL, Reading, TelemetryJournal, Value

READINGS = [
    Reading(10, 2, "a", "metrics", values=[Value("requests_running", 3), Value("ttft_bucket", 7, float("inf"))]),
    Reading(20, 1, "a", "metrics", gap="/metrics answers with HTTP status 503."),
    Reading(30, 1, "a", "gpu", "0", [Value("power", 250.5)]),
]
ROWS = [
    (10, 2, "a", "metrics", "", "requests_running", None, 3.0, None),
    (10, 2, "a", "metrics", "", "ttft_bucket", float("inf"), 7.0, None),
    (20, 1, "a", "metrics", "", None, None, None, "/metrics answers with HTTP status 503."),
    (30, 1, "a", "gpu", "0", "power", None, 250.5, None),
]


def directory(path: Path, readings: list[Reading] | None = None) -> RunDirectory:
    made = RunDirectory.create(path, manifest())
    made.append(*entry())
    if readings is not None:
        journal = TelemetryJournal(path / TELEMETRY_JOURNAL)
        journal.append(readings)
        journal.close()
    return made


def rows(path: Path) -> list[Any]:
    return [tuple(row.values()) for row in Run.open(path).telemetry.to_pylist()]


def test_readings_come_back_before_and_after_the_run_is_finished(tmp_path: Path) -> None:
    made = directory(tmp_path / "run", READINGS)
    assert rows(tmp_path / "run") == ROWS
    made.finish("complete")
    assert (tmp_path / "run" / TELEMETRY).is_file()
    assert not (tmp_path / "run" / TELEMETRY_JOURNAL).exists()
    assert rows(tmp_path / "run") == ROWS


def test_a_torn_line_costs_that_reading_only(tmp_path: Path) -> None:
    made = directory(tmp_path / "run", READINGS)
    with (tmp_path / "run" / TELEMETRY_JOURNAL).open("ab") as file:
        file.write(b'[40,1,"a","metrics","",[["requests_ru')
    assert rows(tmp_path / "run") == ROWS
    made.finish("complete")
    assert rows(tmp_path / "run") == ROWS


def test_a_run_that_read_nothing_has_no_rows_and_no_file(tmp_path: Path) -> None:
    directory(tmp_path / "run").finish("complete")
    assert rows(tmp_path / "run") == []
    assert not (tmp_path / "run" / TELEMETRY).exists()
