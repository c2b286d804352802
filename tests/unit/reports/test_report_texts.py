"""OpenMetrics, Parquet and Markdown, each read back by what reads them."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from made_runs import MakeRun, entry
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from llmbench.reports.exports import statistics, write_parquet
from llmbench.reports.markdown import run_markdown
from llmbench.reports.openmetrics import write_openmetrics
from llmbench.results.run import Run
from llmbench.results.summary import summarise

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scraped(run: Run, path: Path) -> Samples:
    write_openmetrics(run, path)
    families = text_string_to_metric_families(path.read_text(encoding="utf-8"))
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def labels(**given: str) -> frozenset[tuple[str, str]]:
    return frozenset(given.items())


def test_prometheus_reads_base_units(run: Run, tmp_path: Path) -> None:
    found = scraped(run, tmp_path / "metrics.txt")
    row = next(row for row in summarise(run).rows if row.engine == "beta")
    where = {"engine": "beta", "level": "poisson 8/s"}
    ttft = row.distribution("ttft")
    assert ttft is not None
    assert ttft.p50 is not None
    median = found["llmbench_ttft_seconds", labels(**where, statistic="quantile", quantile="0.5")]
    assert median == pytest.approx(ttft.p50 / 1000)
    assert found["llmbench_requests", labels(**where, outcome="failed")] == row.num_failed
    assert found["llmbench_success_share_ratio", labels(**where)] == row.total("success_share")
    assert not any(name.startswith("llmbench_goodput") for name, _ in found)


def test_prometheus_reads_hostile_labels(make_run: MakeRun, tmp_path: Path) -> None:
    label = 'a"b\\c\n{d="e"} 1'
    found = scraped(make_run([entry(engine=label)]), tmp_path / "metrics.txt")
    where = labels(engine=label, level="closed 1", outcome="ok")
    assert found["llmbench_requests", where] == 1


def test_parquet_holds_the_numbers_unrounded(run: Run, tmp_path: Path) -> None:
    write_parquet(run, tmp_path / "summary.parquet")
    table = pq.ParquetFile(tmp_path / "summary.parquet").read()
    expected = list(statistics(run))
    assert table.column("value").to_pylist() == [each.value for each in expected]
    assert table.column("low").to_pylist() == [each.low for each in expected]
    assert table.column("n").to_pylist() == [each.n for each in expected]
    assert float("inf") in table.column("value").to_pylist()


def test_parquet_of_an_empty_run_has_the_columns(make_run: MakeRun, tmp_path: Path) -> None:
    write_parquet(make_run([]), tmp_path / "summary.parquet")
    table = pq.ParquetFile(tmp_path / "summary.parquet").read()
    assert table.num_rows == 0
    assert str(table.schema.field("low").type) == "double"


def test_markdown_has_a_table_per_level(sweep: Run) -> None:
    text = run_markdown(sweep)
    assert text.count("| engine |") == 3
    rows = [line for line in text.splitlines() if line.startswith(("| alpha", "| beta"))]
    assert len(rows) == 6
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in rows} == {12}
    assert "SLO met" in text


def test_markdown_puts_an_invalid_run_s_reasons_first(make_run: MakeRun) -> None:
    text = run_markdown(make_run([entry()], invalid=("a: late.",)))
    assert text.index("**Invalid:** a: late.") < text.index("| engine")


def test_markdown_keeps_text_from_elsewhere_text(make_run: MakeRun) -> None:
    hostile = "x | y\n# head <img src=x> [a](javascript:b) @team `c` **d** \x1b[31m"
    text = run_markdown(make_run([entry(engine=hostile), entry(1, engine=hostile, ok=False, tokens=[], error=hostile)]))
    assert "<img" not in text
    assert "\x1b" not in text
    assert "\n# head" not in text
    assert "[a](" not in text
    assert not re.search(r"(?<!\\)@team", text)
    [row] = [line for line in text.splitlines() if line.startswith("| x")]
    assert len(re.findall(r"(?<!\\)\|", row)) == 10
