"""The run's answer in words, and what pictures are drawn from."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from made_runs import Entry, MakeRun, entry, manifest
from rich.console import Console

from llmbench.reports.console import print_summary
from llmbench.results.answer import answer, left_out
from llmbench.results.manifest import EngineManifest, TrialManifest
from llmbench.results.run import Run
from llmbench.results.run_directory import RunDirectory
from llmbench.results.samples import each_samples
from llmbench.results.series import MAX_POINTS, cdf, failures, throughput, waterfall
from llmbench.results.summary import summarise

TWO = (EngineManifest(label="a", name="reference"), EngineManifest(label="b", name="reference"))


def requests(engine: str, *, scale: float = 1.0, rounds: int = 5, num: int = 30, **fields) -> list[Entry]:
    generator = np.random.default_rng("ab".index(engine))
    made = []
    for number in range(rounds):
        for index in range(num):
            due = 1000.0 * number + 10 * index
            stamps = due + scale * (20 * np.exp(generator.normal(0, 0.02)) + 5 * np.arange(6))
            made.append(
                entry(
                    index,
                    engine=engine,
                    round=number,
                    due=due,
                    tokens=[(float(stamp), 1) for stamp in stamps],
                    **fields,
                )
            )
    return made


def test_one_engine_is_told_with_figures_units_and_how_many(make_run: MakeRun) -> None:
    [sentence] = answer(make_run(requests("a")))
    assert sentence.startswith("a answered 150 of 150 requests at closed 1: first token after 20.")
    assert re.search(r"20\.\d ms \(95 % interval 1?[29]?[0-9.]+ to 20\.\d ms\) at the median", sentence)
    assert "output tokens/s in all" in sentence


def test_the_faster_engine_is_named_with_how_much_and_how_sure(make_run: MakeRun) -> None:
    [sentence] = answer(make_run(requests("b") + requests("a", scale=1.5), engines=TWO))
    found = re.search(
        r"b against a: (\d\.\d\d) times as fast to a whole answer \(95 % interval (\S+) to (\S+)\)", sentence
    )
    assert found is not None
    ratio, low, high = map(float, found.groups())
    assert low <= ratio <= high
    assert ratio == pytest.approx(1.5, abs=0.03)
    assert "how rounds differ" not in sentence


def test_equal_engines_are_not_ranked(make_run: MakeRun) -> None:
    [sentence] = answer(make_run(requests("a") + requests("b"), engines=TWO))
    assert "no difference shown to a whole answer" in sentence
    assert "times as fast" not in sentence


def test_one_round_says_what_it_does_not_know(make_run: MakeRun) -> None:
    [sentence] = answer(make_run(requests("a", rounds=1) + requests("b", rounds=1), engines=TWO))
    assert "This is from one round, so how rounds differ is not in the intervals" in sentence


def test_too_few_requests_are_no_answer(make_run: MakeRun) -> None:
    [sentence] = answer(make_run(requests("a", rounds=1, num=5) + requests("b", rounds=1, num=5), engines=TWO))
    assert "insufficient data to a whole answer" in sentence


def test_a_run_that_did_not_end_says_so_first(make_run: MakeRun) -> None:
    assert answer(make_run(requests("a"), finish=False))[0].startswith("This run did not come to its end")
    assert answer(make_run([])) == ("Nothing was measured.",)


def test_all_failed_is_told_without_figures(make_run: MakeRun) -> None:
    rows = [entry(index, tokens=[], ok=False, end=5.0) for index in range(10)]
    assert answer(make_run(rows)) == ("a answered 0 of 10 requests at closed 1.",)
    both = rows + [entry(index, engine="b", tokens=[], ok=False, end=5.0) for index in range(10)]
    assert "no engine answered enough" in answer(make_run(both, engines=TWO))[0]


def test_warm_up_is_in_no_figure(make_run: MakeRun) -> None:
    [row] = summarise(make_run([*requests("a", rounds=1), entry(99, warmup=True, due=0, tokens=[(9000, 1)])])).rows
    assert row.num_requests == 30
    ttft = row.distribution("ttft")
    assert ttft is not None
    assert ttft.n == 30
    assert ttft.maximum is not None
    assert ttft.maximum < 100


def test_a_picture_of_a_distribution_ends_below_one_by_its_failures(make_run: MakeRun) -> None:
    rows = [entry(index, due=index, tokens=[(index + 10 + index % 7, 1)], ok=index % 4 != 0) for index in range(80)]
    [samples] = each_samples(make_run(rows))
    curve = cdf(samples, "ttft")
    assert curve is not None
    assert (curve.n, curve.num_failed) == (80, 20)
    assert curve.y[-1] == pytest.approx(0.75)
    assert (np.diff(curve.x) >= 0).all()
    assert (np.diff(curve.y) > 0).all()
    assert np.isfinite(curve.x).all()


def test_pictures_stay_small(make_run: MakeRun) -> None:
    rows = [entry(index, due=index, tokens=[(index + 10 + (index * 7919) % 4001, 1)]) for index in range(4000)]
    [samples] = each_samples(make_run(rows))
    curve = cdf(samples, "ttft")
    assert curve is not None
    assert len(curve.x) <= MAX_POINTS + 100
    assert len(waterfall(samples, limit=20)) == 20


def test_a_waterfall_row_is_the_life_of_a_request(make_run: MakeRun) -> None:
    [samples] = each_samples(
        make_run(
            [
                entry(0, due=0, sent=2, tokens=[(10, 1), (30, 2)], end=31),
                entry(1, due=5, sent=None, tokens=[], ok=False),
            ]
        )
    )
    first, second = waterfall(samples)
    assert (first.due_s, first.sent_s, first.first_token_s, first.end_s) == pytest.approx((0, 0.002, 0.01, 0.031))
    assert first.token_s.tolist() == pytest.approx([0.01, 0.03])
    assert (second.due_s, second.sent_s, second.first_token_s) == (pytest.approx(0.005), None, None)
    assert second.token_s.tolist() == []


def test_throughput_over_time_adds_up(make_run: MakeRun) -> None:
    [samples] = each_samples(make_run(requests("a")))
    found = throughput(samples)
    assert found is not None
    assert found.tokens_per_s.sum() * found.bin_s == pytest.approx(30 * 6)  # of an average round
    assert found.requests_per_s.sum() * found.bin_s == pytest.approx(30)


def test_that_nothing_was_measured_is_said_once(tmp_path: Path) -> None:
    engines = (EngineManifest(label="a", name="reference"),)
    directory = RunDirectory.create(tmp_path / "run", manifest(engines=engines, trials=()))
    directory.finish("failed")
    run = Run.open(directory.path)
    assert answer(run) == ("a did not start, so nothing was measured.",)
    file = io.StringIO()
    print_summary(run, Console(file=file, width=80))
    assert file.getvalue().lower().count("nothing was measured") == 1


def test_failures_are_counted_by_kind_with_an_example(make_run: MakeRun) -> None:
    rows = [entry(index, tokens=[], ok=False, error_kind="connect", error=f"Refused {index}.") for index in range(3)]
    rows.append(entry(3, tokens=[], ok=False, error_kind="truncated", error="Cut."))
    found = failures(make_run([*rows, entry(4)]))
    assert [(each.kind, each.num, each.example) for each in found] == [
        ("connect", 3, "Refused 0."),
        ("truncated", 1, "Cut."),
    ]


@pytest.mark.parametrize(
    ("measured", "sentence"),
    [
        ("", "a, b and c did not start, so nothing was measured."),
        ("b", "a and c did not start; b was measured."),
        ("ac", "b did not start; a and c were measured."),
        ("abc", "An engine did not start again for every round: its figures are of fewer rounds than the others'."),
    ],
)
def test_a_failed_run_names_who_was_left_out_and_who_was_not(measured: str, sentence: str) -> None:
    engines = tuple(EngineManifest(label=label, name="reference") for label in "abc")
    trials = tuple(
        TrialManifest(engine=label, level="closed 1", round=0, start_ns=0, end_ns=1, requests=1) for label in measured
    )
    assert left_out(manifest(engines=engines, trials=trials)) == sentence
