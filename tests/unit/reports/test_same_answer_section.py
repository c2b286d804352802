"""Same question, same answer: its section, on answers that would like to be markup."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
from made_runs import MakeRun, entry

from llmbench.reports.exports import write_json
from llmbench.reports.html import render
from llmbench.reports.material import Material
from llmbench.reports.sections.same_answer import SAME_ANSWER
from llmbench.results.answers import ANSWERS, KeptAnswer, answers_table
from llmbench.results.manifest import EngineManifest
from llmbench.results.run import Run

ANSWERS_GIVEN = {"a": "one <b>", "b": "one <img src=x>\x1b[2J\u202e"}


def parted(make_run: MakeRun, **ids: dict[str, list[int]]) -> Run:
    entries = [
        entry(0, engine=engine, tokens=[(10, 1), (20, 1)], output_sha256=engine * 64, output_tokens=2)
        for engine in ANSWERS_GIVEN
    ]
    engines = tuple(EngineManifest(label=engine, name="openai") for engine in ANSWERS_GIVEN)
    run = make_run(entries, engines=engines)
    kept = [KeptAnswer(f"{engine}-r0-00000", text, **ids.get(engine, {})) for engine, text in ANSWERS_GIVEN.items()]
    pq.write_table(answers_table(kept), run.path / ANSWERS)
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


def test_what_the_tokens_were_counted_by_is_told(make_run: MakeRun) -> None:
    html = render(parted(make_run, a={"token_ids": [5, 7]}, b={"token_ids": [5, 9]}))
    assert "1 (id 7): n" in html  # its read has one character here
    assert "tokens are counted from 0, by the ids that both engines told." in html


def test_retokenised_texts_are_no_ids_of_an_engine(make_run: MakeRun) -> None:
    html = render(parted(make_run, a={"retokenised": [5, 7]}, b={"retokenised": [9]}))
    assert "by the ids that the workload&#39;s tokenizer gives their texts" in html


def test_one_engine_is_told_that_there_is_nothing_to_compare(make_run: MakeRun) -> None:
    view = SAME_ANSWER.view(Material(make_run([entry()])))
    assert view is not None
    assert "One engine was asked" in str(view["reason"])
