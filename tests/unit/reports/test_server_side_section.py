"""Server side: its section, its lines in the terminal and its exports."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from made_runs import MakeRun, entry
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from rich.console import Console
from synthetic_run import ALPHA, write_run

from llmbench.reports.console import print_summary
from llmbench.reports.figure import Figure
from llmbench.reports.html import render
from llmbench.reports.material import Material
from llmbench.reports.sections.server_side import SERVER_SIDE
from llmbench.reports.telemetry_exports import (
    write_telemetry_csv,
    write_telemetry_openmetrics,
    write_telemetry_parquet,
)
from llmbench.results.run import Run
from llmbench.results.telemetry import TELEMETRY, TELEMETRY_JOURNAL, Reading, TelemetryJournal, Value, journalled

UNPRICED = "alpha, beta: no price is given (engines[].price), so nothing is known of the cost."
GAP = "/metrics answers with HTTP status 503 <script>."


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """alpha tells all it has each half second, beta fails to."""
    run = write_run(tmp_path_factory.mktemp("told") / "run", num_requests=24, num_tokens=12, rounds=2)
    journal = TelemetryJournal(run.path / TELEMETRY_JOURNAL)
    for trial in run.manifest.trials:
        assert trial.end_ns is not None
        ticks = range(trial.start_ns - 1000, trial.end_ns + 500_000_000, 500_000_000)
        for number, t_ns in enumerate(ticks):
            if trial.engine == "beta":
                journal.append([Reading(t_ns, 1000, "beta", "metrics", gap=GAP)])
                continue
            values = [
                Value("requests_running", number % 5),
                Value("kv_cache_usage", 0.25),
                Value("prefix_cache_queries", 100.0 * number),
                Value("prefix_cache_hits", 25.0 * number),
                Value("preemptions", 0),
                Value("ttft_sum", 0.05 * number),
                Value("ttft_count", number),
                Value("prefill_time_sum", 0.02 * number),
                Value("prefill_time_count", number),
            ]
            cpu = [Value("cpu_seconds", 0.75 * number), Value("rss", 2.0**30)]
            journal.append(
                [Reading(t_ns, 1000, "alpha", "metrics", "", values), Reading(t_ns, 1000, "alpha", "process", "", cpu)]
            )
    journal.close()
    pq.write_table(journalled(run.path / TELEMETRY_JOURNAL), run.path / TELEMETRY)
    return Run.open(run.path)


def view_of(run: Run) -> dict[str, Any]:
    view = SERVER_SIDE.view(Material(run))
    assert view is not None
    return dict(view)


def test_each_quantity_that_was_read_is_drawn_over_the_round_s_time(told: Run) -> None:
    [panel] = view_of(told)["drawn"]["panels"]
    figures = {figure.title: figure for figure in panel.figures}
    assert set(figures) == {
        "Requests in the batch",
        "KV cache in use",
        "Found in the prefix cache",
        "Processor cores busy",
        "Resident memory",
    }
    assert all([trace["name"] for trace in figure.traces] == ["alpha"] for figure in figures.values())
    assert set(figures["KV cache in use"].traces[0]["y"]) == {0.25}
    assert figures["Processor cores busy"].traces[0]["y"] == pytest.approx([1.5] * len(panel.figures[0].traces[0]["x"]))
    assert max(figures["Resident memory"].traces[0]["x"]) < figures["Resident memory"].x.high


def test_the_table_sets_the_server_s_ttft_beside_ours(told: Run) -> None:
    texts = {row.quantity.title: row.texts for row in view_of(told)["rows"]}
    assert texts["TTFT by the server"] == ("50.0", None)
    assert texts["prefill"] == ("20.0", None)
    assert "decoding" not in texts
    ours, nobody = texts["TTFT by us"]
    assert 20 < float(ours) < 200
    assert nobody is None
    assert texts["found in the prefix cache"] == ("25\u00a0%", None)
    assert texts["preemptions"] == ("0", None)
    assert "output by the server" not in texts


def test_what_could_not_be_read_is_said_with_the_reason(told: Run) -> None:
    unread = view_of(told)["unread"]
    assert any(text.startswith("beta at poisson 8/s") and text.endswith(f"times: {GAP}") for text in unread)
    assert "beta: not started here, so nothing is known of the processes." in unread
    assert GAP.replace("<", "&lt;").replace(">", "&gt;") in render(told)


def test_a_run_without_telemetry_says_why(run: Run, make_run: MakeRun) -> None:
    assert view_of(run) == {
        "drawn": None,
        "rows": (),
        "unread": [UNPRICED, "Nothing was read: this run keeps no telemetry."],
    }
    off = make_run([entry()], workload={"name": "off", "measure": {"telemetry_s": 0}})
    assert view_of(off)["unread"][1:] == ["Nothing was read: the workload switches it off (measure.telemetry_s: 0)."]


def test_the_terminal_has_a_line_for_each_engine_that_told_anything(told: Run) -> None:
    file = io.StringIO()
    print_summary(told, Console(file=file, width=200, force_terminal=False, markup=False, highlight=False))
    [line] = [line for line in file.getvalue().splitlines() if "by its own clock" in line]
    assert "alpha at poisson 8/s: mean TTFT 50.0 ms by its own clock" in line
    assert "25\u00a0% of the prompts from the prefix cache" in line
    assert "preemptions" not in line


def test_a_price_becomes_a_cost_on_page_and_terminal(make_run: MakeRun) -> None:
    price = {"per_hour": 3.6, "currency": "CHF"}
    workload = {"name": "priced", "engines": [{"label": "a", "price": price}], "measure": {}}
    # 1 s for 50 tokens: 20 CHF per million of them.
    run = make_run([entry(tokens=[(1000, 50)])], workload=workload)
    assert "cost 20.0\u00a0CHF" in " ".join(f"{row.quantity.title} {row.texts[0]}" for row in view_of(run)["rows"])
    assert "CHF/1M tokens" in render(run)
    file = io.StringIO()
    print_summary(run, Console(file=file, width=200, force_terminal=False, markup=False, highlight=False))
    assert "20.0\u00a0CHF per million output tokens" in file.getvalue()
    assert "Not known per output token: energy (no counter" in file.getvalue()


def test_exports_know_which_round_a_reading_is_of(told: Run, tmp_path: Path) -> None:
    write_telemetry_csv(told, tmp_path / "t.csv")
    write_telemetry_parquet(told, tmp_path / "t.parquet")
    with (tmp_path / "t.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    rows = pq.ParquetFile(tmp_path / "t.parquet").read().to_pylist()
    assert len(lines) == len(rows) == told.telemetry.num_rows
    inside = [row for row in rows if row["metric"] == "kv_cache_usage" and row["round"] == 1]
    assert inside
    assert all(row["level"] == "poisson 8/s" and row["unit"] == "share" and row["round_s"] >= 0 for row in inside)
    assert rows[0]["round"] is None  # the reading right before the first round
    assert {row["gap"] for row in rows if row["engine"] == "beta"} == {GAP}


def test_prometheus_reads_each_value_with_its_time(told: Run, tmp_path: Path) -> None:
    write_telemetry_openmetrics(told, tmp_path / "t.prom")
    samples = {
        family.name: family.samples
        for family in text_string_to_metric_families((tmp_path / "t.prom").read_text(encoding="utf-8"))
    }
    usage = samples["llmbench_server_kv_cache_usage"]
    assert {sample.value for sample in usage} == {0.25}
    assert usage[0].labels == {"engine": "alpha"}
    assert float(usage[1].timestamp) - float(usage[0].timestamp) == pytest.approx(0.5)
    assert "llmbench_server_ttft_sum" in samples


def test_a_share_that_is_small_throughout_is_not_drawn_on_the_axis(tmp_path: Path) -> None:
    def drawn(usage: float) -> Figure:
        run = write_run(tmp_path / f"{usage}", engines=(ALPHA,), num_requests=12, num_tokens=6, rounds=1)
        [trial] = run.manifest.trials
        readings = [
            Reading(trial.start_ns + tick * 200_000_000, 1000, "alpha", "metrics", "", [Value("kv_cache_usage", usage)])
            for tick in range(6)
        ]
        journal = TelemetryJournal(run.path / TELEMETRY_JOURNAL)
        journal.append(readings)
        journal.close()
        pq.write_table(journalled(run.path / TELEMETRY_JOURNAL), run.path / TELEMETRY)
        view = SERVER_SIDE.view(Material(Run.open(run.path)))
        assert view is not None
        [figure] = view["drawn"]["panels"][0].figures  # type: ignore[index]
        return figure

    small, large = drawn(0.016), drawn(0.6)
    assert "range" not in small.spec["layout"]["yaxis"]
    assert "does not reach 100" in small.reading
    assert large.spec["layout"]["yaxis"]["range"] == [0, 1.02]
    assert "does not reach" not in large.reading
