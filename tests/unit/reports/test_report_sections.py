"""What single sections compute, on runs small enough to do in the head."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
from made_runs import MakeRun, entry
from synthetic_run import FakeEngine, write_run

from llmbench.reports.differences import pairs_of
from llmbench.reports.figure import rounded, thinned
from llmbench.reports.headline import headline
from llmbench.reports.html import render
from llmbench.reports.load_level import OfferedLoad, offered_load
from llmbench.reports.material import Material
from llmbench.reports.numbers import interval
from llmbench.reports.sections.decode_profile import DECODE_PROFILE
from llmbench.reports.sections.distributions import DISTRIBUTIONS
from llmbench.reports.sections.environment import flattened
from llmbench.reports.sections.load_curves import LOAD_CURVES
from llmbench.results.comparison_set import compare_engines
from llmbench.results.manifest import InstrumentManifest, SearchManifest, TrialManifest, TriedLoadManifest
from llmbench.results.run import Run
from llmbench.results.statistics import Interval


@pytest.mark.parametrize(
    ("level", "load"),
    [
        ("poisson 8/s", OfferedLoad("rate", 8.0)),
        ("constant 0.25/s", OfferedLoad("rate", 0.25)),
        ("gamma 1e+03/s", OfferedLoad("rate", 1000.0)),
        ("closed 4", OfferedLoad("concurrency", 4.0)),
        ("burst", None),
        ("ramp 1-16/s", None),
        ("poisson 8/s <b>", None),
    ],
)
def test_a_level_s_load_is_read_from_its_name(level: str, load: OfferedLoad | None) -> None:
    assert offered_load(level) == load


def test_the_decode_profile_follows_the_token_s_place(make_run: MakeRun) -> None:
    # Token k comes k ms after the one before, in 25 answers of 6 tokens.
    ticks = [(100 + sum(range(2, place + 1)), 1) for place in range(1, 7)]
    view = DECODE_PROFILE.view(Material(make_run([entry(index, tokens=ticks) for index in range(25)])))
    assert view is not None
    [panel] = view["panels"]
    [figure] = panel.figures
    median = figure.traces[1]
    assert median["x"] == [2, 3, 4, 5, 6]
    assert median["y"] == [2, 3, 4, 5, 6]


def test_a_chunk_of_several_tokens_shares_its_gap(make_run: MakeRun) -> None:
    view = DECODE_PROFILE.view(
        Material(make_run([entry(index, tokens=[(10, 1), (40, 3)], requested_tokens=4) for index in range(25)]))
    )
    assert view is not None
    median = view["panels"][0].figures[0].traces[1]
    assert (median["x"], median["y"]) == ([4], [10])


def test_load_curves_rise_in_order_of_load_and_mark_the_limit(sweep: Run) -> None:
    view = LOAD_CURVES.view(Material(sweep))
    assert view is not None
    figures = {figure.title: figure for figure in view["figures"]}
    assert figures["TTFT median"].traces[0]["x"] == [4, 8, 16]
    assert "Limit: 150 ms" in figures["TTFT median"].reading
    assert "Goodput" in figures


def test_one_level_has_no_load_curve(run: Run) -> None:
    assert LOAD_CURVES.view(Material(run)) is None


def test_differences_lie_where_their_gain_is(sweep: Run) -> None:
    compared = compare_engines(Material(sweep).side)
    comparisons = {(each.level, each.spec.title): each for each in compared.comparisons}
    for pair in pairs_of(compared.comparisons):
        reach = max(abs(each.at - 50) for each in pair.differences if each.at is not None)
        assert reach <= 50
        for each in pair.differences:
            comparison = comparisons[pair.level, each.row.figure]
            if each.at is None or comparison.gain is None:
                continue
            assert (each.at > 50) == (comparison.gain > 1) or math.isclose(comparison.gain, 1, rel_tol=1e-3)
            assert each.low is not None
            assert each.high is not None
            assert each.low <= each.at <= each.high
            assert each.margin_low <= 50 <= each.margin_high


@pytest.mark.parametrize("itl_ms", [9.0, 900.0], ids=["linear", "logarithmic"])
def test_a_distribution_is_drawn_past_its_last_step_and_the_axis_past_that(tmp_path: Path, itl_ms: float) -> None:
    # The last step would else be drawn on the edge of the plot, or fall into a gap of a dashed line.
    engines = (FakeEngine("a"), FakeEngine("b", prefill_ms=2000 if itl_ms > 100 else 60, itl_ms=itl_ms))
    material = Material(write_run(tmp_path / "run", engines=engines, num_requests=24, num_tokens=8, rounds=2))
    view = DISTRIBUTIONS.view(material)
    assert view is not None
    [panel] = view["panels"]
    kinds = set()
    for figure in panel.figures:
        axis = figure.spec["layout"]["xaxis"]
        is_log = axis.get("type") == "log"
        kinds.add(is_log)
        low, high = (10**end if is_log else end for end in axis["range"])
        last = [trace["x"][-2] for trace in figure.traces]
        for trace in figure.traces:
            assert trace["y"][-1] == trace["y"][-2] == 1
            assert trace["x"][-2] < trace["x"][-1] <= high * 1.0001
            assert low <= trace["x"][0]
        share = math.log(high / max(last)) / math.log(high / low) if is_log else 1 - max(last) / high
        assert share == pytest.approx(0.02, abs=0.002)
    assert (itl_ms > 100) in kinds


@pytest.mark.parametrize("ok", [True, False], ids=["one-value", "none"])
def test_a_distribution_of_one_value_or_of_none_has_an_axis(make_run: MakeRun, ok: bool) -> None:
    view = DISTRIBUTIONS.view(Material(make_run([entry(0) if ok else entry(0, ok=False, tokens=())])))
    assert view is not None
    for figure in view["panels"][0].figures:
        axis, [trace] = figure.spec["layout"]["xaxis"], figure.traces
        assert len(trace["x"]) == (2 if ok else 0)
        assert axis.get("range", [0, 1])[0] < axis.get("range", [0, 1])[1]


def test_the_headline_is_a_sentence_per_level(sweep: Run) -> None:
    sentences = headline(Material(sweep))
    assert len(sentences) == 3
    assert all(sentence.startswith("At poisson") and "alpha is faster than beta" in sentence for sentence in sentences)


def test_the_headline_of_too_few_rounds_gives_no_verdict(run: Run) -> None:
    [sentence] = headline(Material(run))
    assert "faster" not in sentence
    assert re.search(r": \d.*× \(.*\) to a whole answer.*; no verdict: needs 4 rounds, has 3\.$", sentence), sentence


def test_the_headline_ranks_the_second_of_three(tmp_path: Path) -> None:
    engines = tuple(FakeEngine(name, prefill_ms=prefill_ms) for name, prefill_ms in (("a", 20), ("b", 60), ("c", 90)))
    run = write_run(tmp_path / "three", engines=engines, num_requests=24, num_tokens=8, rounds=4)
    [sentence] = headline(Material(run))
    assert "a is faster than b (second of 3): " in sentence


def test_the_headline_admits_that_data_is_missing(make_run: MakeRun) -> None:
    run = make_run([entry(0, engine="a"), entry(0, engine="b")])
    [sentence] = headline(Material(run))
    assert "nothing can be said" in sentence


def test_nested_environments_become_words() -> None:
    nested = {"gpus": [{"name": "H100", "memory_bytes": 2**33}], "packages": {"torch": None}, "turbo": False}
    assert list(flattened(nested)) == [
        ("gpus 1 name", "H100"),
        ("gpus 1 memory", "8.00\u00a0GiB"),
        ("packages torch", "n/a"),
        ("turbo", "no"),
    ]


def test_thinned_curves_keep_their_ends_and_their_tail() -> None:
    x = np.arange(10_000.0)
    thin_x, thin_y = thinned(x, x / 10_000, 200)
    assert len(thin_x) <= 200
    assert (thin_x[0], thin_x[-1]) == (0, 9999)
    assert (thin_x >= 9000).sum() >= 90
    assert np.array_equal(thin_y, thin_x / 10_000)


def test_rounding_keeps_significant_digits_and_gaps() -> None:
    values = np.array([0.0, 123456.789, 0.000123456, np.inf, np.nan, -12.3456])
    assert rounded(values) == [0.0, 123457.0, 0.00012346, None, None, -12.346]


@pytest.mark.parametrize(
    ("clock", "said"),
    [
        ("kernel", "the kernel as they arrived"),
        ("packet", "a packet capture, segment by segment"),
        ("user space", "the load generator as it read them"),
    ],
)
def test_the_page_says_what_stamped_the_chunks(make_run: MakeRun, clock: str, said: str) -> None:
    instrument = InstrumentManifest(event_loop="uvloop", clock=clock)
    trial = TrialManifest(
        engine="a", level="closed 1", round=0, start_ns=0, end_ns=1, requests=1, instrument=instrument
    )
    assert f"chunks stamped by {said}; event loop uvloop" in render(make_run([entry()], trials=(trial,)))


def test_between_failures_and_failures_no_interval_is_shown() -> None:
    assert interval(Interval(math.inf, math.inf)) == ""
    assert interval(Interval(1.5, math.inf)) == "1.50–∞"


def test_the_answer_of_a_search_is_its_result_and_its_loads_go_upwards(make_run: MakeRun) -> None:
    tried = TriedLoadManifest(load=8, num_trials=1, num_met=1, num_requests=1, low=0.1, high=1, verdict="undecided")
    found = SearchManifest(
        engine="a",
        attainment=0.9,
        confidence=0.95,
        unit="requests/s",
        met=8,
        missed=16,
        sentence="8 it is.",
        tried=(tried,),
    )
    levels = ["poisson 8/s", "poisson 16/s", "poisson 11.3137/s", "poisson 8/s"]
    entries = [entry(place, level=level, round=place // 3) for place, level in enumerate(levels)]
    trials = [
        TrialManifest(engine="a", level=level, round=place // 3, start_ns=0, end_ns=1, requests=1)
        for place, level in enumerate(levels)
    ]
    material = Material(make_run(entries, search=(found,), trials=tuple(trials)))
    assert headline(material) == ("a: 8 it is.",)
    assert material.levels == ("poisson 8/s", "poisson 11.3137/s", "poisson 16/s")
    page = render(material.run)
    assert "1 to 2 rounds, by load and engine; how rounds differ shows from 4 on" in page
    assert page.index("a: 8 it is.") < page.index("The whole answer") < page.index("answered 1 of 1 requests")
