"""Cost and energy of the measured tokens, from prices and counters that are small enough to divide in the head."""

from __future__ import annotations

from typing import Any

import pyarrow.parquet as pq
import pytest
from made_runs import MS, ORIGIN_NS, MakeRun, entry

from llmbench.results.run import Run
from llmbench.results.summary import SummaryRow, summarise
from llmbench.results.telemetry import TELEMETRY, TELEMETRY_JOURNAL, Reading, TelemetryJournal, Value, journalled


def priced(price: dict[str, Any] | None) -> dict[str, Any]:
    return {"name": "priced", "engines": [{"label": "a", "price": price}], "measure": {"telemetry_s": 1}}


def row_of(run: Run) -> SummaryRow:
    [row] = summarise(run).rows
    return row


def with_readings(run: Run, readings: list[Reading]) -> Run:
    journal = TelemetryJournal(run.path / TELEMETRY_JOURNAL)
    journal.append(readings)
    journal.close()
    pq.write_table(journalled(run.path / TELEMETRY_JOURNAL), run.path / TELEMETRY)
    return Run.open(run.path)


def test_a_cost_is_the_price_of_the_time_over_the_tokens(make_run: MakeRun) -> None:
    # 4 tokens in 2 s: the failed request adds time and no tokens.
    entries = [entry(0, tokens=[(500, 4)]), entry(1, tokens=[(2000, 3)], ok=False)]
    run = make_run(entries, workload=priced({"per_hour": 1.8, "currency": "USD"}))
    assert row_of(run).total("cost") == pytest.approx(1e6 * 1.8 * 2 / 3600 / 4)


def test_without_a_price_or_tokens_there_is_no_cost(make_run: MakeRun) -> None:
    assert row_of(make_run([entry()], workload=priced(None))).total("cost") is None
    free = make_run([entry()], workload=priced({"per_hour": 0, "currency": "USD"}))
    assert row_of(free).total("cost") == 0
    nothing = make_run([entry(ok=False)], workload=priced({"per_hour": 1, "currency": "USD"}))
    assert row_of(nothing).total("cost") is None


def test_energy_is_what_the_counters_rose_by_in_the_round(make_run: MakeRun) -> None:
    run = make_run([entry(0, due=1000, sent=1000, tokens=[(3000, 10)])], workload=priced(None))
    readings = [
        Reading(ORIGIN_NS + ms * MS, 1, "a", source, instance, [Value(name, value)])
        for source, instance, name, values in (
            ("gpu", "0", "energy", {0: 5.0, 990: 100.0, 3010: 160.0}),
            ("gpu", "1", "energy", {0: 7.0, 990: 10.0, 3010: 50.0}),
            ("cpu", "", "cpu_energy", {0: 0.0, 990: 20.0, 3010: 50.0}),
        )
        for ms, value in values.items()
    ]
    row = row_of(with_readings(run, readings))
    assert row.total("gpu_energy") == pytest.approx((60 + 40) / 10)
    assert row.total("cpu_energy") == pytest.approx(30 / 10)


def test_energy_of_a_gpu_that_went_silent_is_unknown(make_run: MakeRun) -> None:
    run = make_run([entry(0, due=1000, sent=1000, tokens=[(3000, 10)])], workload=priced(None))
    readings = [
        Reading(ORIGIN_NS + ms * MS, 1, "a", "gpu", "0", [Value("energy", value)])
        for ms, value in ((990, 100.0), (2000, 160.0))
    ]
    row = row_of(with_readings(run, readings))
    assert row.total("gpu_energy") is None
    assert row.total("cpu_energy") is None
