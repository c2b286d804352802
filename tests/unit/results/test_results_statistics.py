"""Quantiles, means and intervals against numpy and scipy, and the rules for too little data."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.signal
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbench.results.statistics import (
    distribution,
    estimate_quantile,
    missing_beyond,
    order,
    required_n,
    samples_per_independent,
)
from llmbench.results.units import MIN_ROUNDS, student_t, student_tail, units_of

FINITE = st.floats(0, 1e6, allow_subnormal=False)


def described(values: np.ndarray, rounds: np.ndarray | None = None, weights: np.ndarray | None = None):
    rounds = np.zeros(len(values), np.int64) if rounds is None else rounds
    found = distribution(values, weights, np.arange(len(values)), units_of(rounds))
    assert found is not None
    return found


@given(st.lists(FINITE, min_size=30, max_size=80), st.sampled_from([0.5, 0.9]))
@settings(max_examples=60, deadline=None)
def test_quantiles_are_numpys(numbers: list[float], share: float) -> None:
    values = np.array(numbers)
    assert described(values).at(share) == pytest.approx(float(np.quantile(values, share)), rel=1e-12, abs=1e-9)


@given(st.lists(st.tuples(FINITE, st.integers(1, 5)), min_size=10, max_size=40))
@settings(max_examples=60, deadline=None)
def test_a_weight_counts_like_repetition(pairs: list[tuple[float, int]]) -> None:
    values, weights = np.array([value for value, _ in pairs]), np.array([weight for _, weight in pairs])
    once, repeated = described(values, weights=weights), described(np.repeat(values, weights))
    assert once.n == repeated.n
    assert once.p50 == pytest.approx(repeated.p50)
    assert once.mean == pytest.approx(repeated.mean)
    assert once.std == pytest.approx(repeated.std, abs=1e-6)


@given(st.lists(FINITE, min_size=30, max_size=60), st.integers(0, 30))
@settings(max_examples=60, deadline=None)
def test_failures_are_infinitely_slow_and_never_nan(numbers: list[float], num_failed: int) -> None:
    found = described(np.array(numbers + [math.inf] * num_failed))
    assert (found.n, found.num_failed) == (len(numbers) + num_failed, num_failed)
    shown = [quantile for quantile in found.quantiles.values() if quantile is not None]
    for value, interval in shown:
        assert not math.isnan(value)
        if interval is not None:
            assert interval.low <= value <= interval.high
    if num_failed > len(numbers):
        assert found.p50 == math.inf
    assert found.mean == pytest.approx(np.mean(numbers))
    assert found.maximum == (math.inf if num_failed else max(numbers))


def test_all_failed_has_no_mean_and_an_infinite_median() -> None:
    found = described(np.full(10, math.inf))
    assert (found.mean, found.std, found.minimum, found.p50) == (None, None, None, math.inf)


def test_the_spread_is_that_of_a_sample_and_a_failure_takes_no_part() -> None:
    found = described(np.array([1.0, 2.0, 3.0, 4.0, math.inf]), weights=np.array([1, 1, 2, 1, 1]))
    assert found.std == pytest.approx(np.std([1, 2, 3, 3, 4], ddof=1))
    assert described(np.array([1.0])).std is None


def test_nothing_is_none_and_zero_is_zero() -> None:
    empty = np.empty(0)
    assert distribution(empty, None, empty.astype(np.int64), units_of(np.empty(0, np.int64))) is None
    assert described(np.zeros(10)).p50 == 0.0


@pytest.mark.parametrize(("share", "needed"), [(0.5, 5), (0.9, 29), (0.95, 59), (0.99, 299)])
def test_a_tail_needs_samples(share: float, needed: int) -> None:
    assert required_n(share) == needed
    # The definition: fewer, and the largest sample is below the quantile with more than 5 % chance.
    assert share**needed <= 0.05 < share ** (needed - 1)
    assert described(np.arange(needed, dtype=float)).at(share) is not None
    assert described(np.arange(needed - 1, dtype=float)).at(share) is None


def test_the_mean_of_rounds_has_students_interval() -> None:
    # Rounds of one request each: the classical t interval of their mean.
    values = np.random.default_rng(3).exponential(10, 12)
    found = described(values, rounds=np.arange(12))
    expected = scipy.stats.t.interval(0.95, 11, loc=values.mean(), scale=scipy.stats.sem(values))
    assert found.mean_interval == pytest.approx(expected)


def test_t_is_scipys() -> None:
    assert student_t(0.975, 7) == pytest.approx(scipy.stats.t.ppf(0.975, 7))
    assert student_tail(2.5, 4.3) == pytest.approx(scipy.stats.t.sf(2.5, 4.3))


def test_rounds_are_units_from_four_on_and_blocks_stay_within_rounds() -> None:
    many = units_of(np.repeat(np.arange(MIN_ROUNDS), 10))
    assert (many.are_rounds, len(many), many.freedom) == (True, 4, 3)
    few = units_of(np.repeat([0, 1], [100, 50]))
    assert (few.are_rounds, len(few), few.freedom) == (False, 10, 8)
    for number in range(len(few)):
        members = np.flatnonzero(few.of_request == number)
        assert (np.diff(members) == 1).all()
        assert len(set((members >= 100).tolist())) == 1


def test_what_rounds_do_widens_the_interval() -> None:
    generator = np.random.default_rng(0)
    rounds = np.repeat(np.arange(8), 100)
    steady = generator.normal(100, 5, 800)
    shifting = steady + generator.normal(0, 10, 8)[rounds]

    def width(values: np.ndarray) -> float:
        interval = described(values, rounds).interval_at(0.5)
        assert interval is not None
        return interval.high - interval.low

    assert width(shifting) > 4 * width(steady)


def test_dependent_samples_do_not_make_a_tail() -> None:
    # 400 samples in 4 lumps: one independent sample's worth each, and 299 are needed.
    values = np.repeat([10.0, 11, 12, 13], 100)
    rounds = np.repeat(np.arange(4), 100)
    ordered = order(values, None, np.arange(400), units_of(rounds))
    assert estimate_quantile(ordered, units_of(rounds), 0.99) is None
    assert described(values, rounds).p99 == 13


def test_the_interval_of_a_median_covers_it() -> None:
    # 300 runs of 6 rounds; a count below 270 has probability 1e-4 at a true coverage of 95 %.
    generator = np.random.default_rng(1)
    rounds = np.repeat(np.arange(6), 40)
    units = units_of(rounds)
    covered = 0
    for _ in range(300):
        shift = generator.normal(0, 0.1, 6)[rounds]
        values = np.exp(0.5 * (generator.normal(0, 1, 240) + shift))
        estimate = estimate_quantile(order(values, None, np.arange(240), units), units, 0.5)
        assert estimate is not None
        covered += estimate.interval.low <= 1 <= estimate.interval.high
    assert covered >= 270


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.8])
def test_dependent_neighbours_are_worth_less(phi: float) -> None:
    # The variance of the mean of a first-order autoregression is (1 + φ) / (1 − φ) times that of separate samples.
    noise = np.random.default_rng(4).normal(0, 1, 50_000)
    values = np.exp(scipy.signal.lfilter([1], [1, -phi], noise))
    units = units_of(np.zeros(len(values), np.int64))
    ordered = order(values, None, np.arange(len(values)), units)
    assert samples_per_independent(ordered, units) == pytest.approx((1 + phi) / (1 - phi), rel=0.1)


def test_what_a_tail_lacks_is_said() -> None:
    noise = np.random.default_rng(5).normal(0, 1, 1000)
    values = np.exp(scipy.signal.lfilter([1], [1, -0.9], noise))
    units = units_of(np.repeat(np.arange(5), 200))
    ordered = order(values, None, np.arange(1000), units)
    assert estimate_quantile(ordered, units, 0.5) is not None
    assert estimate_quantile(ordered, units, 0.99) is None
    said = missing_beyond(ordered, units, 0.99)
    assert said is not None
    needed = int(said.split()[1])
    # 19 samples are worth one, and 2 such must lie beyond: 3800, give or take the error of the correlation.
    assert 2500 < needed < 5500
    assert "has 1000: neighbours are alike" in said


def test_equal_values_are_no_trend() -> None:
    units = units_of(np.zeros(400, np.int64))
    constant = order(np.full(400, 3.0), None, np.arange(400), units)
    assert samples_per_independent(constant, units) == 1
    alternating = order(np.tile([1.0, math.inf], 200), None, np.arange(400), units)
    assert samples_per_independent(alternating, units) == 1


def test_rounds_of_unlike_prompts_are_no_dependence_within_them() -> None:
    units = units_of(np.repeat(np.arange(6), 50))
    values = np.random.default_rng(7).uniform(1, 1.1, 300) * np.repeat([1.0, 3.0, 1.5, 2.0, 2.5, 1.2], 50)
    assert samples_per_independent(order(values, None, np.arange(300), units), units) < 1.5


def test_a_tail_in_lumps_is_less_sure_than_one_of_separate_samples() -> None:
    units = units_of(np.repeat(np.arange(10), 200))
    # 40 slow requests of 2000 each time: one by one, or in lumps of ten.
    apart = np.random.default_rng(6).uniform(1, 2, 2000)
    together = apart.copy()
    apart[25::50] += 10
    for first in range(95, 2000, 500):
        together[first : first + 10] += 10
    found = [
        estimate_quantile(order(values, None, np.arange(2000), units), units, 0.98) for values in (apart, together)
    ]
    assert found[0] is not None
    assert found[0].freedom == pytest.approx(9, rel=0.01)
    assert found[1] is None or found[1].freedom < 3
