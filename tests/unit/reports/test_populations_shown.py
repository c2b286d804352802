"""What each population of a mixed workload saw of an engine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_runs import MakeRun, entry

from llmbench.reports.exports import write_json
from llmbench.reports.html import render
from llmbench.results.run import Run
from llmbench.results.summary import summarise_populations

WORKLOAD = {"name": "mix", "measure": {"warmup": "0.01 s"}}


@pytest.fixture
def mixed(make_run: MakeRun) -> Run:
    """chat waits 10 ms, <rag> 40 ms, and one of <rag> fails; one more of chat is due in the warm-up."""
    return make_run(
        [
            entry(0, due=0, tokens=[(5, 1), (6, 1)], population="chat"),
            entry(1, due=20, tokens=[(30, 1), (31, 1)], population="chat"),
            entry(2, due=20, tokens=[(60, 1), (62, 3)], population="<rag>"),
            entry(3, due=30, tokens=[(40, 1), (42, 1)], population="chat"),
            entry(4, due=30, tokens=[], end=35, ok=False, population="<rag>"),
        ],
        workload=WORKLOAD,
    )


def test_each_has_its_own_requests_of_the_common_window(mixed: Run) -> None:
    chat, rag = summarise_populations(mixed)
    assert [(each.population, each.row.num_requests, each.row.num_failed) for each in (chat, rag)] == [
        ("chat", 2, 0),
        ("<rag>", 2, 1),
    ]
    ttft = chat.row.distribution("ttft")
    assert ttft is not None
    assert (ttft.minimum, ttft.maximum) == (10.0, 10.0)
    # From 10 ms until 62 ms: what chat had after 10 ms is 4 tokens, and the window is not chat's alone.
    assert chat.row.total("output_throughput") == pytest.approx(4 / 0.052)
    assert rag.row.total("output_throughput") == pytest.approx(4 / 0.052)


def test_the_page_and_the_json_say_so(mixed: Run, tmp_path: Path) -> None:
    page = render(mixed)
    assert 'id="populations"' in page
    assert "&lt;rag&gt;" in page
    assert "<rag>" not in page
    write_json(mixed, tmp_path / "run.json")
    named = json.loads((tmp_path / "run.json").read_text())["populations"]
    assert [(each["population"], each["num_failed"]) for each in named] == [("chat", 0), ("<rag>", 1)]
    assert named[0]["metrics"]["ttft"]["unit"] == "ms"


def test_a_workload_of_one_kind_of_users_has_no_such_section(make_run: MakeRun) -> None:
    run = make_run([entry(0), entry(1)])
    assert summarise_populations(run) == ()
    assert 'id="populations"' not in render(run)
