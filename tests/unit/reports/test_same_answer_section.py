"""Same question, same answer: its section, on answers that would like to be markup."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from made_runs import MakeRun, entry

from llmbench.reports.exports import write_json
from llmbench.reports.html import render
from llmbench.reports.material import Material
from llmbench.reports.sections.same_answer import SAME_ANSWER
from llmbench.results.answers import ANSWERS, answers_schema
from llmbench.results.manifest import EngineManifest
from llmbench.results.run import Run

ANSWERS_GIVEN = {"a": "one <b>", "b": "one <img src=x>\x1b[2J\u202e"}


def parted(make_run: MakeRun) -> Run:
    entries = [
        entry(0, engine=engine, tokens=[(10, 1), (20, 1)], output_sha256=engine * 64, output_tokens=2)
        for engine in ANSWERS_GIVEN
    ]
    engines = tuple(EngineManifest(label=engine, name="openai") for engine in ANSWERS_GIVEN)
    run = make_run(entries, engines=engines)
    columns = [[f"{engine}-r0-00000" for engine in ANSWERS_GIVEN], list(ANSWERS_GIVEN.values())]
    pq.write_table(pa.table([pa.array(each) for each in columns], schema=answers_schema()), run.path / ANSWERS)
    return Run.open(run.path)


def test_a_divergence_is_shown_with_both_ways_to_go_on(make_run: MakeRun) -> None:
    html = render(parted(make_run))
    section = html[html.index('id="same-answer"') : html.index('id="distributions"')]
    assert "0&nbsp;%" in section or "0\u00a0%" in section
    assert "one &lt;" in section
    assert "img src=x&gt;" in section
    for harmful in ("<img", "\x1b", "\u202e"):
        assert harmful not in section
    assert "b gave the same answer as a to 0 of 1 questions" in html[: html.index('id="validity"')]


def test_the_export_has_what_is_unequal(make_run: MakeRun, tmp_path: Path) -> None:
    write_json(parted(make_run), tmp_path / "summary.json")
    document = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    [found] = document["output_equality"]
    assert (found["baseline"], found["engine"], found["num_identical"], found["num_both"]) == ("a", "b", 0, 1)
    assert found["divergences"][0]["before"] == "one <"
    assert document["unequal_work"] == []


def test_one_engine_is_told_that_there_is_nothing_to_compare(make_run: MakeRun) -> None:
    view = SAME_ANSWER.view(Material(make_run([entry()])))
    assert view is not None
    assert "One engine was asked" in str(view["reason"])
