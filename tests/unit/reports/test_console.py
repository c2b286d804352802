"""The table in the terminal: complete, narrow enough, and harmless whatever an engine calls itself."""

from __future__ import annotations

import io

from made_runs import MakeRun, entry
from rich.console import Console

from llmbench.reports.console import print_summary
from llmbench.results.run import Run


def printed(run: Run, width: int = 80) -> str:
    file = io.StringIO()
    print_summary(run, Console(file=file, width=width, force_terminal=False, markup=False, highlight=False))
    return file.getvalue()


def test_a_stranger_finds_engines_units_counts_and_words(run: Run) -> None:
    text = " ".join(printed(run).split())
    verdict = "no verdict: needs 4 rounds, has 3"
    for expected in ("alpha", "beta", "TTFT", "ms", "p50", "p99", "120", "failed", "poisson 8/s", verdict):
        assert expected in text


def test_it_fits_80_columns_and_nothing_is_cut(sweep: Run) -> None:
    text = printed(sweep)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert "good" in text


def test_long_labels_are_folded_and_not_cut(make_run: MakeRun) -> None:
    label = "an engine with every option that there is, written out in full, 0123456789"
    text = printed(make_run([entry(engine=label)]))
    assert max(map(len, text.splitlines())) <= 80
    assert "0123456789" in text.replace("\n", "")


def test_too_few_samples_say_how_many_it_takes(run: Run) -> None:
    assert "needs" in printed(run)
    assert "≥\u00a0299" in printed(run)


def test_what_was_not_measured_is_not_zero(make_run: MakeRun) -> None:
    text = printed(make_run([entry(index, tokens=[(10 + index, 1)]) for index in range(6)]))
    [medians] = [line.split() for line in text.splitlines() if line.split()[2:3] == ["p50"]]
    assert medians[4:6] == ["n/a", "n/a"], "one token has no ITL and no TPOT"


def test_a_rate_over_no_time_is_not_zero(make_run: MakeRun) -> None:
    never = [entry(index, tokens=[], ok=False, end_ns=None) for index in range(6)]
    [medians] = [line.split() for line in printed(make_run(never)).splitlines() if line.split()[2:3] == ["p50"]]
    assert medians[-2:] == ["n/a", "n/a"], "nothing ended, so no time was measured"


def test_failures_and_problems_are_told(make_run: MakeRun) -> None:
    run = make_run(
        [entry(0), entry(1, tokens=[], ok=False, error_kind="http_status", error="HTTP 429: slow down")],
        problems=("a: 1 of 2 requests failed.",),
    )
    text = printed(run)
    assert "1 × http_status, e.g. HTTP 429: slow down" in text


def test_an_invalid_measurement_says_so_before_any_number(make_run: MakeRun) -> None:
    text = printed(make_run([entry()], invalid=("a: requests were sent late.",)))
    assert text.index("must not be used") < text.index("TTFT")


def test_a_run_without_requests_is_printed(make_run: MakeRun) -> None:
    assert "Nothing was measured" in printed(make_run([]))


def test_labels_and_errors_cannot_drive_the_terminal(make_run: MakeRun) -> None:
    run = make_run(
        [
            entry(0, engine="evil\x1b[2J\x1b]0;owned\x07 [red]x[/red] \u202eesrever"),
            entry(1, engine="b", tokens=[], ok=False, error="\x1b[31mred\x9b1m\r\nnext", error_kind="server_error"),
        ]
    )
    text = printed(run, 200)
    assert not set(text) & set("\x1b\x07\x9b\r\u202e")
    assert "\\x1b[2J" in text
    assert "[red]x[/red]" in text
