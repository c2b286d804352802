"""The gate's outputs: what a CI system and a pull request show of it."""

from __future__ import annotations

import io
import math
import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from rich.console import Console

from llmbench.reports.comparison_console import print_comparison, print_gate
from llmbench.reports.comparison_html import comparison_html
from llmbench.reports.comparison_rows import notes, row_of
from llmbench.reports.gate_junit import gate_junit
from llmbench.reports.gate_markdown import comparison_markdown, gate_markdown
from llmbench.reports.noise_console import print_noise
from llmbench.results.compare import compare, settle
from llmbench.results.comparison_set import ComparisonSet
from llmbench.results.figures import FIGURE_BY_NAME, Figure
from llmbench.results.gate import judge_gate
from llmbench.results.matching import Flag, Identity, Measured, Side
from llmbench.results.noise import noise_floor

NASTY = "<script>|`*_\x1b[31m\ud800"


def figure(value: float, **changes) -> Figure:
    blank = Figure(value, n=400, num_failed=0, num_rounds=8, log_error=0.002, freedom=7, across_rounds=True)
    return replace(blank, **changes)


def made(subject: str = "new: a", flags: tuple[Flag, ...] = ()) -> ComparisonSet:
    rows = [
        ("tpot_p50", figure(11), figure(10)),
        ("ttft_p50", figure(100.1), figure(100)),
        ("e2e_p50", figure(80), figure(100)),
        ("ttft_p99", figure(200, log_error=None, lacking="needs 299 samples, has 50"), figure(200)),
        ("itl_p50", None, figure(10)),
        ("success_share", figure(0.0, log_error=0.0, num_failed=400), figure(1.0, log_error=0.0)),
    ]
    compared = [
        compare(FIGURE_BY_NAME[name], "closed 4", (subject, ours), ("old: a", theirs)) for name, ours, theirs in rows
    ]
    return ComparisonSet(tuple(settle(compared)), (), flags, 0.05)


def text_of(printer, value) -> str:
    console = Console(width=160, markup=False, highlight=False, file=io.StringIO())
    with console.capture() as capture:
        printer(value, console)
    return capture.get()


def test_junit_counts_what_failed_and_what_was_skipped() -> None:
    [suite] = ElementTree.fromstring(gate_junit(judge_gate(made())))
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("6", "3", "1")
    cases = {case.get("name"): case for case in suite}
    assert cases["TPOT p50"].find("failure") is not None
    assert cases["ITL p50"].find("failure") is not None
    assert cases["TTFT p99"].find("skipped") is not None
    assert cases["TTFT p50"].find("failure") is None
    assert len(suite.findall(".//failure")) == 3


def test_junit_has_the_shape_that_its_readers_expect() -> None:
    # After the schema of Jenkins' JUnit plugin: what may stand where, what must be there, and that it adds up.
    for flags in ((), (Flag("Hardware differs: cpu.", fatal=True),)):
        suites = ElementTree.fromstring(gate_junit(judge_gate(made(flags=flags))))
        assert suites.tag == "testsuites"
        totals = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
        for suite in suites:
            assert (suite.tag, bool(suite.get("name"))) == ("testsuite", True)
            inside = {"failures": "failure", "errors": "error", "skipped": "skipped"}
            counted = {key: len(suite.findall(f"testcase/{tag}")) for key, tag in inside.items()}
            assert {key: int(suite.get(key, -1)) for key in totals} == {"tests": len(suite), **counted}
            for case in suite:
                assert case.tag == "testcase"
                assert case.get("name")
                assert case.get("classname")
                assert [part.tag in {"failure", "error", "skipped", "system-out"} for part in case] == [True]
                assert case[0].tag == "system-out" or case[0].get("message")
            totals = {key: count + int(suite.get(key, -1)) for key, count in totals.items()}
        assert {key: int(suites.get(key, -1)) for key in totals} == totals


def test_junit_says_why_nothing_was_compared() -> None:
    result = judge_gate(made(flags=(Flag("Hardware differs: cpu.", fatal=True),)))
    suites = ElementTree.fromstring(gate_junit(result))
    error = suites.find(".//error")
    assert error is not None
    assert error.get("message") == "Hardware differs: cpu."


def test_nothing_in_a_label_becomes_markup() -> None:
    result = judge_gate(made(subject=NASTY, flags=(Flag(NASTY, fatal=False),)))
    ElementTree.fromstring(gate_junit(result))
    for text in (gate_markdown(result), comparison_markdown(made(subject=NASTY))):
        assert "<script>" not in text
        assert r"\<script\>\|\`\*\_" in text
        text.encode()
    assert "\x1b" not in text_of(print_gate, result)


def test_markdown_leads_with_the_verdict_and_what_failed() -> None:
    text = gate_markdown(judge_gate(made()))
    lines = text.splitlines()
    assert lines[0].endswith("llmbench gate: failed")
    assert lines[2].startswith("- **TPOT p50**, new: a at closed 4: +10.0 %")
    tables = [line for line in lines if line.startswith("|")]
    assert {line.count(" | ") for line in tables} == {5}


def test_markdown_names_a_figure_that_was_asked_for_and_not_tested() -> None:
    result = judge_gate(made(), required={"ttft_p99", "ttft_p50"})
    lines = [line for line in gate_markdown(result).splitlines() if "was asked for" in line]
    assert lines == ["- **TTFT p99** was asked for and could not be tested: new: a needs 299 samples, has 50"]


def test_a_row_says_how_much_and_how_sure() -> None:
    row = row_of(made().comparisons[0])
    assert (row.baseline, row.measured, row.verdict) == ("10.0 ms", "11.0 ms", "slower")
    assert row.change.startswith("+10.0 % (+9.")
    lost = row_of(made().comparisons[5])
    assert (lost.baseline, lost.measured, lost.change) == ("100\u00a0%", "0\u00a0%", "n/a")
    assert "400 of 400 of new: a failed" in lost.verdict


def test_what_its_own_interval_shows_and_the_family_does_not_is_called_likely() -> None:
    near = compare(FIGURE_BY_NAME["tpot_p50"], "closed 4", ("new", figure(9.2, log_error=0.013)), ("old", figure(10)))
    [alone], [first, *_] = settle([near]), settle([near] * 16)
    assert (alone.verdict, first.verdict) == ("faster", "no difference shown")
    assert row_of(alone).verdict == "faster"
    assert row_of(first).verdict == "likely faster; not sure among 16 figures"
    assert any("“Likely”" in note for note in notes((first,), 0.05))
    throughput = FIGURE_BY_NAME["output_throughput"]
    lower = compare(throughput, "closed 4", ("new", figure(92, log_error=0.013)), ("old", figure(100)))
    assert row_of(settle([lower] * 16)[0]).verdict == "likely slower; not sure among 16 figures"
    shown = comparison_html(ComparisonSet(tuple(settle([near] * 16)), (), (), 0.05))
    assert "likely better in TPOT p50 (−8.0 %)" in shown
    assert "not sure among 16 figures" in text_of(print_comparison, ComparisonSet((first,), (), (), 0.05))


@pytest.mark.parametrize("value", [7.0, 13.0])
def test_what_would_have_been_shown_is_told_in_the_direction_seen(value: float) -> None:
    ours = figure(value, log_error=0.3)
    [unsure] = settle([compare(FIGURE_BY_NAME["tpot_p50"], "closed 4", ("new", ours), ("old", figure(10)))])
    words = row_of(unsure).verdict
    change = re.fullmatch(r"no difference shown \(would show ([−+])([\d.]+) %\)", words)
    assert change is not None, words
    assert change[1] == ("−" if value < 10 else "+")
    assert unsure.detectable is not None
    share = 1 - 1 / (1 + unsure.detectable) if value < 10 else unsure.detectable
    assert float(change[2]) == pytest.approx(100 * share, abs=0.05), "no latency falls by more than 100 %"


def test_the_gate_tells_what_it_would_have_seen_for_the_worse() -> None:
    throughput = FIGURE_BY_NAME["output_throughput"]
    ours = figure(99, log_error=0.4)
    compared = settle([compare(throughput, "closed 4", ("new", ours), ("old", figure(100)))])
    [case] = judge_gate(ComparisonSet(tuple(compared), (), (), 0.05)).cases
    found = re.search(r"; a change of -([\d.]+) % would have been seen", case.why)
    assert found is not None, case.why
    assert 50 < float(found[1]) < 100


@pytest.mark.parametrize("num_rounds", [1, 3])
def test_too_few_rounds_give_numbers_and_no_verdict(num_rounds: int) -> None:
    few = {"num_rounds": num_rounds, "across_rounds": False}
    compared = settle(
        [compare(FIGURE_BY_NAME["tpot_p50"], "closed 4", ("new", figure(5, **few)), ("old", figure(10, **few)))]
    )
    row = row_of(compared[0])
    assert row.change.startswith("−50.0 % (")
    assert row.verdict == f"no verdict: needs 4 rounds, has {num_rounds}"
    [note] = [note for note in notes(tuple(compared), 0.05) if "rounds" in note]
    assert "no verdict" in note
    page = comparison_html(ComparisonSet(tuple(compared), (), (), 0.05))
    assert "new against old: no verdict: needs 4 rounds." in page
    assert "balance faster" not in page


def test_the_terminal_shows_every_figure_and_flag() -> None:
    said = text_of(print_comparison, made(flags=(Flag("Hardware differs: cpu.", fatal=True),)))
    assert "Hardware differs: cpu." in said
    for title in ("TPOT p50", "TTFT p99", "success share"):
        assert title in said
    assert "4 tests were judged together" in said
    assert "gate: failed (3 failed, 1 passed, 1 improved, 1 undecided)" in text_of(print_gate, judge_gate(made()))


@pytest.mark.parametrize("value", [math.inf, 0.0])
def test_a_figure_that_never_came_is_shown(value: float) -> None:
    lost = compare(FIGURE_BY_NAME["ttft_p50"], "closed 4", ("a", figure(value, num_failed=400)), ("b", figure(10)))
    row_of(lost)


def test_noise_is_told_with_the_rounds_it_takes() -> None:
    identity = Identity({}, "p", {"cpu": "x"}, finished=True, invalid=())
    measured = Measured(
        "a", "closed 4", {"tpot_p50": figure(10), "ttft_p50": figure(10)}, num_requests=400, num_rounds=8
    )
    said = text_of(print_noise, noise_floor([Side("r", identity, (measured,))]))
    assert "To see a change of 5\u00a0%: 6 rounds on each side; not in TTFT p50, whose margin is larger." in said


def test_one_test_alone_is_not_judged_together_with_others() -> None:
    assert "; a false one has a chance of at most 5" in notes(made().comparisons[:1], 0.05)[0]
