"""Requests that were sent again: rows for each attempt, one request in every figure; and runs from before that."""

from __future__ import annotations

import json
from io import StringIO
from typing import Any

import pyarrow.parquet as pq
import pytest
from made_runs import MS, ORIGIN_NS, MakeRun, entry, only, total
from rich.console import Console

from llmbench.reports.console import print_summary
from llmbench.results.attempts import retries
from llmbench.results.metrics import values_of
from llmbench.results.run import Run
from llmbench.results.series import arrivals, throughput, waterfall

ASKED = {"measure": {"retries": {"attempts": 3}}}


def refused(index: int, attempt: int = 1, **changes: Any) -> Any:
    fields = {"ok": False, "tokens": [], "end": 5, "error_kind": "rate_limited", "attempt": attempt, **changes}
    return entry(index, **fields)


def test_a_request_counts_once_with_its_last_attempt_from_when_it_was_first_due(make_run: MakeRun) -> None:
    second = entry(
        0,
        due=0,
        sent=52,
        tokens=[(60, 1), (70, 1)],
        attempt=2,
        attempt_due_ns=ORIGIN_NS + 50 * MS,
        request_id="a-r0-00000#2",
    )
    run = make_run([refused(0), entry(1), second, refused(2), refused(2, 2, request_id="a-r0-00002#2")], workload=ASKED)
    assert run.requests.num_rows == 5
    assert len(only(run)) == 3
    assert values_of(only(run), "ttft").values.tolist() == [60, 10, float("inf")]
    assert values_of(only(run), "ttft_send").values.tolist()[:2] == [8, 9]
    assert values_of(only(run), "send_lag").values.tolist()[:2] == [2, 1], "not the wait that was asked for"
    assert total(run, "success_share") == pytest.approx(2 / 3)
    assert total(run, "attempts") == pytest.approx(5 / 3)
    assert total(run, "retried_share") == pytest.approx(2 / 3)


def test_what_was_sent_again_is_told(make_run: MakeRun) -> None:
    run = make_run([refused(0), entry(0, attempt=2, request_id="x"), refused(1), refused(1, 2, request_id="y")])
    [count] = retries(run)
    assert (count.num_requests, count.num_retried, count.num_recovered, count.num_attempts) == (2, 2, 1, 4)
    assert count.kinds == (("rate_limited", 2),)
    console = Console(width=200, record=True, file=StringIO())
    print_summary(run, console)
    assert "2 of 2 requests were sent again, 4 attempts in all (2 × rate limited); 1 of them ended well." in (
        console.export_text()
    )


def test_without_a_policy_nothing_is_said(make_run: MakeRun) -> None:
    run = make_run([entry(0), refused(1)])
    assert retries(run) == []
    assert total(run, "attempts") is None


@pytest.mark.parametrize("finish", [True, False])
@pytest.mark.parametrize(("version", "later"), [(1, ["attempt", "attempt_due_ns", "begun_ns"]), (2, ["begun_ns"])])
def test_a_run_of_an_older_schema_is_read(make_run: MakeRun, finish: bool, version: int, later: list[str]) -> None:
    made = make_run([entry(0), entry(1, due=100, tokens=[(110, 1), (120, 1)])], finish=finish)
    manifest = made.path / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "schema_version": version}))
    if finish:
        table = pq.read_table(made.path / "requests.parquet")
        pq.write_table(table.drop_columns(later), made.path / "requests.parquet")
    else:
        journal = made.path / "journal.jsonl"
        entries = [json.loads(line) for line in journal.read_text().splitlines()]
        journal.write_text("".join(json.dumps([row[: -len(later)], chunks]) + "\n" for row, chunks in entries))
    run = Run.open(made.path)
    assert run.requests.schema.equals(made.requests.schema)
    assert run.requests["attempt"].to_pylist() == [1, 1]
    assert run.requests["begun_ns"].to_pylist() == [None, None]
    assert values_of(only(run), "ttft").values.tolist() == [10, 10]
    assert run.manifest.schema_version == 3


def test_what_is_drawn_over_time_has_every_attempt(make_run: MakeRun) -> None:
    cut = entry(0, ok=False, sent=1, tokens=[(10, 1), (20, 1)], end=30, error_kind="truncated")
    again = entry(
        0, sent=52, tokens=[(60, 1), (70, 1)], attempt=2, attempt_due_ns=ORIGIN_NS + 50 * MS, request_id="a-r0-00000#2"
    )
    run = make_run([cut, entry(1, due=5, sent=6), again], workload=ASKED)
    assert only(run).attempts.texts("request_id") == ["a-r0-00000", "a-r0-00000#2", "a-r0-00001"]
    found = arrivals(only(run))
    assert found.asked_s.tolist() == pytest.approx([0, 0.005, 0.050])
    assert found.sent_s.tolist() == pytest.approx([0.001, 0.006, 0.052])
    assert found.num_again == 1
    rows = waterfall(only(run))
    assert [(row.line, row.attempt, row.status) for row in rows] == [(0, 1, "failed"), (0, 2, "ok"), (1, 1, "ok")]
    assert [row.due_s for row in rows] == pytest.approx([0, 0.050, 0.005])
    assert [row.token_s.tolist() for row in rows[:2]] == [pytest.approx([0.01, 0.02]), pytest.approx([0.06, 0.07])]
    assert [row.request_id for row in waterfall(only(run), limit=1)] == ["a-r0-00000", "a-r0-00000#2"]
    rates = throughput(only(run))
    assert rates is not None
    assert float((rates.tokens_per_s * rates.bin_s).sum()) == pytest.approx(6), "those of the attempt that was cut too"


def test_the_attempts_of_requests_in_the_window_are_those_of_no_other(make_run: MakeRun) -> None:
    entries = [refused(index, due=10 * index) for index in range(4)]
    entries += [entry(n, due=10 * n, tokens=[(100, 2)], attempt=2, request_id=f"x{n}") for n in range(4)]
    run = make_run(entries, workload={"measure": {"retries": {"attempts": 2}, "warmup": "2 requests"}})
    assert only(run).attempts.counts("index").tolist() == [2, 2, 3, 3]
    assert only(run).attempts.counts("attempt").tolist() == [1, 2, 1, 2]
    assert len(only(run).whole.attempts) == 8
