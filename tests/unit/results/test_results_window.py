"""Warm-up and cool-down by rule, on requests whose stamps are small numbers and on transients whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_runs import Entry, MakeRun, entry, only, total

from llmbench.results.metrics import values_of
from llmbench.results.run import Run
from llmbench.results.series import failures, throughput, waterfall
from llmbench.results.summary import summarise
from llmbench.results.truncation import mser5
from llmbench.results.window import Rules, Window, window_of


def every_100_ms(num: int = 11, **changes: object) -> list[Entry]:
    """Requests due every 100 ms, each with a token after 10, 20, … 100 ms, and so 10 tokens on the way at any time."""
    return [
        entry(index, due=100 * index, tokens=[(100 * index + 10 * step, 1) for step in range(1, 11)], **changes)
        for index in range(num)
    ]


def measured(make_run: MakeRun, entries: list[Entry], **rules: str) -> Run:
    return make_run(entries, workload={"measure": {"slo": {"e2e_ms": 1000}, **rules}})


def window(rules: Rules, due_s: list[float], e2e_s: float | list[float] = 1.0) -> tuple[float, float]:
    """The window of successful requests, in s since the first was due."""
    due_ns = np.array(due_s) * 1e9
    found = window_of(due_ns, due_ns + np.array(e2e_s) * 1e9, np.ones(len(due_s), bool), rules)
    return (found.start_ns - due_ns[0]) / 1e9, (found.end_ns - due_ns[0]) / 1e9


TEN_SECONDS = [float(second) for second in range(11)]


@pytest.mark.parametrize(
    ("warmup", "cooldown", "expected"),
    [
        (None, None, (0, 11)),  # to the last end
        ("10%", None, (1, 11)),
        (None, "10%", (0, 9)),  # counted back from the last due request
        ("2.5 s", "2.5 s", (2.5, 7.5)),
        ("3 requests", "3 requests", (3, 7)),  # due at 0, 1, 2 and at 8, 9, 10
        ("20%", "4 s", (2, 6)),
    ],
)
def test_each_rule(warmup: str | None, cooldown: str | None, expected: tuple[float, float]) -> None:
    assert window(Rules(warmup, cooldown), TEN_SECONDS) == pytest.approx(expected)


def test_requests_due_at_one_instant_stay_together() -> None:
    # A closed loop of 4 starts four at once.
    assert window(Rules("2 requests", None), [0, 0, 0, 0, 1, 2, 3]) == pytest.approx((1, 4))


@pytest.mark.parametrize("rule", ["11 requests", "60%", "10.5 s"])
def test_a_rule_that_would_leave_nothing_leaves_everything_and_says_so(rule: str) -> None:
    due_ns = np.array(TEN_SECONDS) * 1e9
    found = window_of(due_ns, due_ns + 1e9, np.ones(11, bool), Rules(rule, rule))
    assert found.is_void
    assert "would leave nothing" in found.notes[-1]
    assert found.holds(due_ns).all()
    assert found.seconds == pytest.approx(11)


def test_latencies_are_of_requests_due_in_the_window(make_run: MakeRun) -> None:
    slow_start = [entry(0, tokens=[(90, 1)]), *every_100_ms()[1:]]
    run = measured(make_run, slow_start, warmup="10%", cooldown="20%")
    samples = only(run)
    assert samples.ns("due_ns").tolist() == [index * 1e8 for index in range(1, 9)]
    assert values_of(samples, "ttft").values.tolist() == pytest.approx([10] * 8)
    assert (len(samples), len(samples.whole)) == (8, 11)


def test_rates_count_what_came_in_the_window_whoever_asked_for_it(make_run: MakeRun) -> None:
    # The window is 150 to 850 ms: half of the tokens of the request due at 100 are in it, and the first five of that
    # due at 800, of requests that are due outside and inside.
    run = measured(make_run, every_100_ms(), warmup="0.15 s", cooldown="0.145 s")
    samples = only(run)
    assert (samples.windows[0].start_ns, samples.windows[0].end_ns) == pytest.approx((150e6, 855e6))
    assert total(run, "duration") == pytest.approx(0.705)
    # 60, 70, … 100 of the second, all of six, and 10 … 50 of the ninth: 5 (and the stamp at 150) + 60 + 5.
    assert total(run, "output_throughput") == pytest.approx(71 / 0.705)
    # Ended at 200, 300, … 800.
    assert total(run, "request_throughput") == pytest.approx(7 / 0.705)
    assert total(run, "goodput") == pytest.approx(7 / 0.705)
    # Prompts of 8 whose first token came at 210, 310, … 810.
    assert total(run, "total_throughput") == pytest.approx((71 + 8 * 7) / 0.705)


def test_an_answer_counted_by_the_server_is_shared_out_by_its_chunks(make_run: MakeRun) -> None:
    entries = every_100_ms(output_tokens=40)  # four tokens to each chunk, said the server
    run = measured(make_run, entries, warmup="0.15 s", cooldown="0.145 s")
    assert total(run, "output_throughput") == pytest.approx(4 * 71 / 0.705)


def test_a_rate_in_the_steady_part_is_the_true_one(make_run: MakeRun) -> None:
    # Served at 100 tokens/s while the load lasts; filling and draining dilute it.
    entries = [
        entry(index, due=100 * index, tokens=[(100 * index + 100 * step, 1) for step in range(1, 11)])
        for index in range(31)
    ]
    whole = total(measured(make_run, entries), "output_throughput")
    steady = total(measured(make_run, entries, warmup="40%", cooldown="10%"), "output_throughput")
    assert whole == pytest.approx(310 / 4)
    assert steady == pytest.approx(100, rel=0.07)


def test_without_rules_nothing_changes_and_the_row_says_so(make_run: MakeRun) -> None:
    run = make_run(every_100_ms())
    samples = only(run)
    assert samples.whole is samples
    assert summarise(run).rows[0].window == (
        "warm-up none, cool-down none: every request counts, from the first due to the last end"
    )
    assert total(run, "duration") == pytest.approx(1.1)


def test_the_row_says_what_is_left_out(make_run: MakeRun) -> None:
    run = measured(make_run, every_100_ms(), warmup="10%", cooldown="2 requests")
    said = summarise(run).rows[0].window
    assert said.startswith("warm-up 10%, cool-down 2 requests: 8 of 11 requests count, in 0.7 of 1.1 s; left out: ")
    assert said.endswith("the first 0.1 s, the last 0.3 s")


def test_nothing_left_out_is_hidden(make_run: MakeRun) -> None:
    entries = [entry(0, tokens=[(50, 1)], ok=False), *every_100_ms()[1:]]
    run = measured(make_run, entries, warmup="10%")
    assert summarise(run).rows[0].num_failed == 0
    assert [each.num for each in failures(run)] == [1]
    samples = only(run)
    assert [row.status for row in waterfall(samples)].count("failed") == 1
    series = throughput(samples)
    assert series is not None
    assert series.t_s[0] < 0.05


def test_each_round_has_its_own_window(make_run: MakeRun) -> None:
    later = [
        entry(index, round=1, due=5000 + 200 * index, tokens=[(5000 + 200 * index + 10, 1)]) for index in range(11)
    ]
    samples = only(measured(make_run, [*every_100_ms(), *later], warmup="50%"))
    assert {number: each.start_ns for number, each in samples.windows.items()} == {0: 500e6, 1: 6000e6}


def transient(seed: int, num: int = 400, initial: float = 200.0) -> np.ndarray:
    """Latencies about 100 that begin `initial` higher, which decays by 1/e every 20 requests; φ = 0.5."""
    noise = np.random.default_rng(seed).normal(0, 10, num + 1)
    for index in range(1, num + 1):
        noise[index] += 0.5 * noise[index - 1]
    return 100 + noise[1:] + initial * np.exp(-np.arange(num) / 20)


def test_mser5_takes_a_known_transient_off() -> None:
    # 200 / e^(60 / 20) = 10: after 60 requests the transient has sunk into the noise.
    cuts, errors = [], []
    for seed in range(100):
        values = transient(seed)
        cut = mser5(values)
        assert cut is not None
        cuts.append(cut)
        errors.append(values[cut:].mean() - 100)
    assert 40 <= np.median(cuts) <= 110
    # The transient raises the mean of all by 200 · 20 / 400 = 10; what is left of it after truncation is below 1.
    assert abs(np.mean(errors)) < 1
    assert np.mean([transient(seed).mean() - 100 for seed in range(100)]) == pytest.approx(10, abs=1)


def test_mser5_leaves_a_steady_series_mostly_alone() -> None:
    cuts = [mser5(transient(seed, initial=0)) for seed in range(100)]
    known = [cut for cut in cuts if cut is not None]
    assert len(known) >= 90
    assert np.median(known) <= 40


def test_mser5_finds_nothing_in_a_series_that_never_settles() -> None:
    assert mser5(np.linspace(0, 1, 400)) is None
    assert mser5(np.ones(49)) is None
    assert mser5(np.ones(50)) == 0


def test_auto_cuts_both_ends_and_names_what_it_cannot_tell() -> None:
    due_s = [float(index) for index in range(400)]
    warm = transient(0) / 1000
    start, end = window(Rules("auto", None), due_s, warm.tolist())
    assert 30 <= start <= 120
    assert end == pytest.approx(399 + warm[-1])
    start, end = window(Rules(None, "auto"), due_s, warm[::-1].tolist())
    assert start == 0
    assert 399 - 120 <= end <= 399 - 30
    due_ns = np.array(due_s) * 1e9
    growing = window_of(due_ns, due_ns + due_ns, np.ones(400, bool), Rules("auto", None))
    assert not growing.cuts_start
    assert growing.notes == (
        "warm-up auto: no steady part begins in its half of the load, so nothing is left out there",
    )


def test_failed_requests_do_not_disturb_auto() -> None:
    due_ns = np.arange(400) * 1e9
    ok = np.arange(400) % 7 != 3
    ends_ns = np.where(ok, due_ns + transient(1) * 1e6, np.nan)
    found = window_of(due_ns, ends_ns, ok, Rules("auto", None))
    assert 30e9 <= found.start_ns <= 130e9


RULES = st.one_of(
    st.none(),
    st.just("auto"),
    st.floats(0.1, 99).map(lambda value: f"{value:.4g}%"),
    st.floats(0.01, 1e4).map(lambda value: f"{value:.6f} s"),
    st.integers(1, 200).map(lambda value: f"{value} requests"),
)


@given(RULES, RULES, st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6), st.booleans()), min_size=1))
def test_every_window_lies_in_its_round_and_holds_a_request(
    warmup: str | None, cooldown: str | None, requests: list[tuple[int, int, bool]]
) -> None:
    due_ns = np.sort(np.array([float(due) for due, _, _ in requests])) * 1e5
    ok = np.array([answered for _, _, answered in requests])
    ends_ns = np.where(ok, due_ns + np.array([float(taken) for _, taken, _ in requests]) * 1e5, np.nan)
    found: Window = window_of(due_ns, ends_ns, ok, Rules(warmup, cooldown))
    assert found.holds(due_ns).any()
    if ok.any():
        assert found.first_ns <= found.start_ns <= found.end_ns <= found.last_ns
        assert 0 <= found.seconds <= found.whole_seconds
