"""Requests that were sent again, in the pictures of when what was sent."""

from __future__ import annotations

import re

import pytest
from made_runs import MS, ORIGIN_NS, MakeRun, entry

from llmbench.reports.figure import Figure
from llmbench.reports.html import render
from llmbench.reports.material import Material
from llmbench.reports.section import Section
from llmbench.reports.sections.arrivals import ARRIVALS
from llmbench.reports.sections.waterfall import WATERFALL
from llmbench.results.run import Run

WORKLOAD = {"name": "again", "traffic": {}, "measure": {"retries": {"attempts": 3}}}


@pytest.fixture
def retried(make_run: MakeRun) -> Run:
    """Of two requests the first was refused twice, at 5 and 60 ms, and answered from 120 ms on."""
    tries = [
        entry(0, sent=1, tokens=[], end=5, ok=False, error_kind="rate_limited"),
        entry(0, sent=56, tokens=[], end=60, ok=False, **later(2, 55)),
        entry(0, sent=111, tokens=[(120, 1), (130, 1)], **later(3, 110)),
    ]
    return make_run([*tries, entry(1, due=20, sent=22, tokens=[(30, 1), (40, 1)])], workload=WORKLOAD)


def later(attempt: int, due: float) -> dict[str, object]:
    return {
        "attempt": attempt,
        "attempt_due_ns": ORIGIN_NS + round(due * MS),
        "request_id": f"a-r0-00000#{attempt}",
        "error_kind": "rate_limited" if attempt == 2 else None,
    }


def figures(section: Section, run: Run) -> list[Figure]:
    view = section.view(Material(run))
    assert view is not None
    [panel] = view["panels"]  # type: ignore[misc]
    return list(panel.figures)


def test_the_waterfall_has_all_attempts_of_a_request_on_its_line(retried: Run) -> None:
    [figure] = figures(WATERFALL, retried)
    traces = {trace["name"]: trace for trace in figure.traces}
    failed, again, sent = traces["failed"], traces["waiting to be sent again"], traces["queue and prefill"]
    assert list(zip(failed["y"], failed["x"], strict=True)) == [(0, 0.005), (0, 0.06)]
    assert list(zip(again["y"], again["base"], again["x"], strict=True)) == [(0, 0.005, 0.05), (0, 0.06, 0.05)]
    assert list(zip(sent["y"], sent["base"], sent["x"], strict=True)) == [
        (0, 0.001, 0.004),
        (0, 0.056, 0.004),
        (0, 0.111, 0.009),
        (1, 0.022, 0.008),
    ]
    assert traces["tokens"]["y"] == [0, 0, 1, 1]
    assert "The first 2 of 2 requests" in figure.reading
    assert "2 later attempts" in figure.reading
    assert "2 requests to a, 0 of them failed" in figure.alt


def test_the_load_that_was_sent_has_all_attempts(retried: Run) -> None:
    counts, lag = figures(ARRIVALS, retried)
    due, sent = counts.traces
    assert due["x"] == [0, 0.02, 0.055, 0.11]
    assert sent["x"] == [0.001, 0.022, 0.056, 0.111]
    assert counts.y.title == "attempts"
    assert "4 of 4 sent, 2 of them again" in counts.alt
    assert max(lag.traces[0]["x"]) == pytest.approx(2), "not the waits that were asked for"


def test_the_legend_says_what_a_wait_is_only_where_there_was_one(retried: Run, run: Run) -> None:
    assert re.search(r"key-again.></span>waiting to be sent again", render(retried))
    assert "waiting to be sent again</li>" not in render(run)


def test_a_long_run_s_curve_ends_at_the_number_of_its_requests(make_run: MakeRun) -> None:
    made = make_run([entry(index, due=index, sent=index, tokens=[(index + 1, 1)]) for index in range(5000)])
    [counts, _] = figures(ARRIVALS, made)
    assert counts.traces[-1]["y"][-1] == 5000
    assert "5000 of 5000 sent" in counts.alt
    assert len(counts.traces[-1]["x"]) <= 4000, "a page has no room for all"
