"""Verdicts: what differs is found, what does not is left alone, and what cannot be said is not said."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbench.results.compare import ALPHA, Comparison, Margin, compare, settle
from llmbench.results.figures import FIGURE_BY_NAME, FIGURES, Figure

TPOT = FIGURE_BY_NAME["tpot_p50"]
THROUGHPUT = FIGURE_BY_NAME["output_throughput"]


def figure(value: float, error: float | None = 0.005, *, num_failed: int = 0, rounds: int = 8, **changes) -> Figure:
    fields = {
        "value": value,
        "n": 400,
        "num_failed": num_failed,
        "num_rounds": rounds,
        "log_error": error,
        "freedom": rounds - 1,
        "across_rounds": True,
    }
    return Figure(**(fields | changes))


def judged(subject: Figure | None, baseline: Figure | None, spec=TPOT, **options) -> Comparison:
    [comparison] = settle([compare(spec, "closed 4", ("new", subject), ("old", baseline), **options)])
    return comparison


def test_slower_and_faster_by_latency() -> None:
    slower = judged(figure(11), figure(10))
    assert slower.verdict == "slower"
    assert slower.ratio == pytest.approx(1.1)
    assert slower.gain == pytest.approx(1 / 1.1)
    assert slower.interval is not None
    assert slower.interval.low < 1.1 < slower.interval.high
    assert judged(figure(10), figure(11)).verdict == "faster"


def test_more_throughput_is_faster() -> None:
    assert judged(figure(110), figure(100), THROUGHPUT).verdict == "faster"
    assert judged(figure(100), figure(110), THROUGHPUT).verdict == "slower"


def test_a_difference_within_the_relative_margin_is_none() -> None:
    found = judged(figure(10.1, 1e-6), figure(10, 1e-6))
    assert found.verdict == "no difference shown"
    assert found.p_adjusted == 1.0
    assert judged(figure(10.1, 1e-6), figure(10, 1e-6), margin=Margin(0.005, 0)).verdict == "slower"


def test_a_difference_within_the_absolute_margin_is_none() -> None:
    assert judged(figure(0.30, 1e-6), figure(0.25, 1e-6)).verdict == "no difference shown"  # 20 %, but 0.05 ms
    assert judged(figure(0.40, 1e-6), figure(0.25, 1e-6)).verdict == "slower"


def test_no_difference_says_what_could_have_been_seen() -> None:
    found = judged(figure(10.2, 0.02), figure(10, 0.02))
    assert found.verdict == "no difference shown"
    assert found.detectable is not None
    assert found.detectable > 0.03
    finer = judged(figure(10.2, 0.002), figure(10, 0.002))
    assert finer.detectable is not None
    assert 0.03 < finer.detectable < found.detectable


def test_among_many_figures_less_could_have_been_seen() -> None:
    one = compare(TPOT, "closed 4", ("new", figure(10.2)), ("old", figure(10)))
    [alone], [first, *_] = settle([one]), settle([one] * 20)
    assert alone.detectable is not None
    assert first.detectable is not None
    assert alone.detectable < first.detectable


@pytest.mark.parametrize("missing", ["subject", "baseline", "both"])
def test_a_missing_figure_is_no_improvement(missing: str) -> None:
    subject = None if missing != "baseline" else figure(10)
    baseline = None if missing != "subject" else figure(10)
    found = judged(subject, baseline)
    assert found.verdict == "insufficient data"
    assert found.reason is not None
    who = {"subject": "new has", "baseline": "old has", "both": "new and old have"}[missing]
    assert found.reason == f"{who} no TPOT p50"


def test_too_few_samples_say_what_they_need() -> None:
    found = judged(figure(10, None, lacking="needs 299 samples, has 50"), figure(10))
    assert found.verdict == "insufficient data"
    assert found.reason == "new needs 299 samples, has 50"


def test_all_requests_failed_is_slower() -> None:
    lost = figure(math.inf, None, num_failed=400)
    assert judged(lost, figure(10)).verdict == "slower"
    assert judged(figure(10), lost).verdict == "faster"
    assert judged(lost, lost).verdict == "insufficient data"
    none_came = figure(0.0, 0.0, num_failed=400)
    assert judged(none_came, figure(10), THROUGHPUT).verdict == "slower"


def test_one_failure_too_many_for_a_p99_is_not_yet_slower() -> None:
    spec = FIGURE_BY_NAME["ttft_p99"]
    found = judged(figure(math.inf, None, num_failed=5), figure(10), spec)
    assert found.verdict == "insufficient data"
    assert found.reason == "5 of 400 of new failed"


def test_a_zero_baseline_is_not_divided_by() -> None:
    assert judged(figure(5.0), figure(0.0, 0.0), TPOT).verdict == "insufficient data"
    goodput = FIGURE_BY_NAME["goodput"]
    assert judged(figure(5.0), figure(0.0, 0.0), goodput).ratio is None
    assert judged(figure(0.0, 0.0), figure(0.0, 0.0), goodput).reason == "both have a figure of 0"


@pytest.mark.parametrize("side", ["subject", "baseline"])
def test_what_is_no_number_is_no_difference_shown_either(side: str) -> None:
    # NaN compares as false with everything: it would pass every gate.
    broken = figure(math.nan)
    found = judged(broken, figure(10)) if side == "subject" else judged(figure(10), broken)
    assert found.verdict == "insufficient data"
    assert found.reason == f"{'new' if side == 'subject' else 'old'} has a figure of nan, so there is no ratio"


def test_pairing_takes_out_what_rounds_did_to_both() -> None:
    rounds = np.array([0.03, -0.02, 0.01, -0.03, 0.02, -0.01])
    own = np.array([1, -1, 1, -1, 1, -1]) * 1e-4

    def with_influence(value: float, influence: np.ndarray) -> Figure:
        return figure(value, float(np.sqrt((influence**2).sum())), rounds=6, influence=influence)

    old, new = with_influence(10, rounds), with_influence(10.6, rounds + own)
    assert judged(new, old, paired=True).verdict == "slower"
    assert judged(new, old, paired=True).paired
    assert judged(new, old, paired=False).verdict == "no difference shown"


def test_holm_is_its_definition() -> None:
    ps = [0.01, 0.04, 0.03, 0.005]
    blank = judged(figure(10), figure(10))
    from dataclasses import replace

    settled = settle([replace(blank, p=p) for p in ps])
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1, made monotone.
    assert [each.p_adjusted for each in settled] == pytest.approx([0.03, 0.06, 0.06, 0.02])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
def test_correction_never_makes_a_p_smaller_and_keeps_the_order(ps: list[float]) -> None:
    from dataclasses import replace

    blank = judged(figure(10), figure(10))
    adjusted = [each.p_adjusted for each in settle([replace(blank, p=p) for p in ps])]
    for p, corrected in zip(ps, adjusted, strict=True):
        assert corrected is not None
        assert p <= corrected <= 1
    assert sorted(range(len(ps)), key=lambda place: (ps[place], place)) == sorted(
        range(len(ps)), key=lambda place: (adjusted[place], ps[place], place)
    )


def test_a_sure_verdict_survives_many_unsure_ones() -> None:
    sure = compare(TPOT, "closed 4", ("new", figure(13)), ("old", figure(10)))
    unsure = [compare(spec, "closed 4", ("new", figure(10.005)), ("old", figure(10))) for spec in FIGURES]
    settled = settle([sure, *unsure])
    assert settled[0].verdict == "slower"
    assert {each.verdict for each in settled[1:]} == {"no difference shown"}


def test_equal_rigs_are_rarely_told_apart() -> None:
    # 15 figures of equal engines, 500 times: a false verdict in any of them at most ALPHA of the time, and with a
    # margin far less. 40 or more of 500 at a rate of 5 % has probability 0.2 %; the seed is fixed.
    generator = np.random.default_rng(5)
    alarms = 0
    for _ in range(500):
        values = 10 * np.exp(generator.normal(0, 0.005, (15, 2)))
        found = settle(
            [
                compare(
                    TPOT,
                    "closed 4",
                    ("new", figure(new, rounds=500)),
                    ("old", figure(old, rounds=500)),
                    margin=Margin(0, 0),
                )
                for new, old in values
            ]
        )
        alarms += any(each.verdict != "no difference shown" for each in found)
    assert alarms / 500 <= ALPHA * 1.6
