"""Exports read back by what reads them: json, csv, and vLLM's own key set."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from full_run import write_full_run
from made_runs import MakeRun, entry
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from llmbench.reports.exports import write_csv, write_json, write_parquet, write_vllm_bench
from llmbench.reports.openmetrics import openmetrics
from llmbench.results.run import Run
from llmbench.results.summary import summarise

CAPTURE = Path(__file__).parents[2] / "data/wire/vllm/bench_inf.json"


def strict_json(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_json_holds_every_figure_with_its_unit_and_interval(run: Run, tmp_path: Path) -> None:
    write_json(run, tmp_path / "summary.json")
    document = strict_json((tmp_path / "summary.json").read_text())
    row = next(row for row in summarise(run).rows if row.engine == "alpha")
    stored = next(row for row in document["rows"] if row["engine"] == "alpha")
    ttft = row.distribution("ttft")
    assert ttft is not None
    median = ttft.quantiles[0.5]
    assert median is not None
    assert median.interval is not None
    assert stored["num_requests"] == row.num_requests
    assert stored["metrics"]["ttft"]["unit"] == "ms"
    assert stored["metrics"]["ttft"]["p50"] == {
        "value": median.value,
        "low": median.interval.low,
        "high": median.interval.high,
    }
    assert stored["metrics"]["goodput"] is None
    assert document["answer"]


def test_a_latency_that_never_came_is_told_from_one_not_measured(run: Run, tmp_path: Path) -> None:
    write_json(run, tmp_path / "summary.json")
    beta = next(row for row in strict_json((tmp_path / "summary.json").read_text())["rows"] if row["engine"] == "beta")
    assert float(beta["metrics"]["e2e"]["max"]) == float("inf")


def test_csv_has_a_line_per_statistic(run: Run, tmp_path: Path) -> None:
    write_csv(run, tmp_path / "summary.csv")
    with (tmp_path / "summary.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    found = {(line["engine"], line["metric"], line["statistic"]): line for line in lines}
    rows = {row.engine: row for row in summarise(run).rows}
    assert float(found["beta", "e2e", "mean"]["value"]) == rows["beta"].distribution("e2e").mean
    assert found["beta", "e2e", "max"]["value"] == "inf"
    assert int(found["beta", "e2e", "p50"]["num_failed"]) == rows["beta"].num_failed > 0
    assert float(found["alpha", "output_throughput", "total"]["value"]) == rows["alpha"].total("output_throughput")
    assert ("alpha", "goodput", "total") not in found


def test_csv_labels_are_no_formulas(make_run: MakeRun, tmp_path: Path) -> None:
    hostile = make_run([entry(engine='=HYPERLINK("http://x")')])
    write_csv(hostile, tmp_path / "summary.csv")
    with (tmp_path / "summary.csv").open(newline="", encoding="utf-8") as file:
        assert {line["engine"] for line in csv.DictReader(file)} == {'\'=HYPERLINK("http://x")'}


def test_vllm_bench_has_the_keys_of_a_captured_file(run: Run, tmp_path: Path) -> None:
    write_vllm_bench(run, tmp_path / "vllm-bench.json")
    captured = json.loads(CAPTURE.read_text())
    # `note` is the capture's own --metadata.
    del captured["note"]
    documents = [strict_json(line) for line in (tmp_path / "vllm-bench.json").read_text().splitlines()]
    assert [document["label"].split(",")[0] for document in documents] == ["alpha", "beta"]
    for document in documents:
        assert document.keys() == captured.keys()
        for key, value in captured.items():
            if isinstance(value, list):
                assert len(document[key]) == document["num_prompts"], key
            elif isinstance(value, float) and key != "request_goodput":
                assert isinstance(document[key], float), key


def test_vllm_bench_counts_as_vllm_does(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(
        [
            entry(0, sent=2, tokens=[(12, 1), (22, 1), (42, 2)], end=43),
            entry(1, sent=5, tokens=[(35, 1), (45, 1)], end=50),
            entry(2, sent=6, tokens=[], end=9, ok=False),
        ]
    )
    write_vllm_bench(run, tmp_path / "vllm-bench.json")
    document = strict_json((tmp_path / "vllm-bench.json").read_text())
    assert document["ttfts"] == pytest.approx([0.010, 0.030, 0.0])  # from sent, in s
    assert document["itls"] == [pytest.approx([0.010, 0.020]), pytest.approx([0.010]), []]
    assert document["latencies"] == pytest.approx([0.041, 0.045, 0.0])
    assert document["queue_times"] == pytest.approx([0.002, 0.005, 0.006])
    assert document["output_lens"] == [4, 2, 0]
    assert (document["completed"], document["failed"], document["total_output_tokens"]) == (2, 1, 6)
    assert document["errors"] == ["", "", "The stream ended early."]
    assert document["mean_ttft_ms"] == pytest.approx(20.0)
    assert document["p99_itl_ms"] == pytest.approx(np.percentile([10, 20, 10], 99))
    assert document["std_e2el_ms"] == pytest.approx(np.std([41, 45]))
    assert document["request_throughput"] == pytest.approx(2 / 0.050)  # first due to last end
    assert document["max_output_tokens_per_s"] == 6.0
    assert document["max_concurrent_requests"] == 2


def test_vllm_bench_of_a_run_without_answers_is_still_written(make_run: MakeRun, tmp_path: Path) -> None:
    write_vllm_bench(make_run([entry(sent=None, tokens=[], ok=False)]), tmp_path / "vllm-bench.json")
    document = strict_json((tmp_path / "vllm-bench.json").read_text())
    assert document["mean_ttft_ms"] is None
    assert document["completed"] == 0


def test_vllm_bench_has_the_gaps_of_every_request_in_due_order(run: Run, tmp_path: Path) -> None:
    write_vllm_bench(run, tmp_path / "vllm-bench.json")
    stamps: dict[str, list[int]] = {}
    for request_id, t_ns in zip(*(run.chunks.column(name).to_pylist() for name in ("request_id", "t_ns")), strict=True):
        stamps.setdefault(request_id, []).append(t_ns)
    for document in map(strict_json, (tmp_path / "vllm-bench.json").read_text().splitlines()):
        rows = [row for row in run.requests.to_pylist() if f"{row['engine']}, {row['level']}" == document["label"]]
        rows.sort(key=lambda row: (row["due_ns"], row["index"]))
        expected = [np.diff(stamps.get(row["request_id"], [])) / 1e9 for row in rows if not row["warmup"]]
        assert len(document["itls"]) == len(expected)
        for found, gaps in zip(document["itls"], expected, strict=True):
            assert found == pytest.approx(gaps.tolist())
        counted = [gaps for gaps, row in zip(expected, rows, strict=True) if row["status"] == "ok"]
        assert document["mean_itl_ms"] == pytest.approx(1e3 * np.concatenate(counted).mean())


def test_money_has_its_currency_in_every_export_that_names_units(tmp_path: Path) -> None:
    run = write_full_run(tmp_path / "run", rates=(4.0,), rounds=1)
    write_csv(run, tmp_path / "summary.csv")
    with (tmp_path / "summary.csv").open(newline="", encoding="utf-8") as file:
        costs = {line["engine"]: line for line in csv.DictReader(file) if line["metric"] == "cost"}
    write_parquet(run, tmp_path / "summary.parquet")
    table = pq.read_table(tmp_path / "summary.parquet").to_pylist()
    text = "".join(f"{line}\n" for line in openmetrics(run))
    [family] = [each for each in text_string_to_metric_families(text) if each.name.startswith("llmbench_cost")]
    assert {line["unit"] for line in costs.values()} == {"EUR/1M tokens"}
    assert {row["unit"] for row in table if row["metric"] == "cost"} == {"EUR/1M tokens"}
    assert [(each.labels["engine"], each.labels["currency"]) for each in family.samples] == [
        ("alpha", "EUR"),
        ("beta", "EUR"),
    ]
    assert [each.value for each in family.samples] == [float(line["value"]) for line in costs.values()]


def test_the_json_of_an_invalid_run_says_so(make_run: MakeRun, tmp_path: Path) -> None:
    write_json(make_run([entry()], problems=("It rained.",), invalid=("It rained.",)), tmp_path / "summary.json")
    assert strict_json((tmp_path / "summary.json").read_text())["invalid"] == ["It rained."]
