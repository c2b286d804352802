"""Arrivals follow the law they are named after. Each statistical assertion states its chance of a false failure.

Seeds are fixed, so a test that passes once passes always; the chance is that of a correct process failing with seeds
picked at random, and so the chance that these were lucky picks is its complement.
"""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from scipy import stats

from llmbench.workloads.arrivals import Arrivals, arrival_offsets_ns

SEEDS = range(20)
ARRIVALS: TypeAdapter[Arrivals] = TypeAdapter(Arrivals)


def seconds(num_requests: int, seed: int = 0, **fields: object) -> np.ndarray:
    offsets = arrival_offsets_ns(ARRIVALS.validate_python(fields), num_requests, seed)
    assert offsets is not None
    return np.array(offsets, dtype=np.int64) / 1e9


def gaps(num_requests: int, seed: int, **fields: object) -> np.ndarray:
    return np.diff(seconds(num_requests, seed, **fields), prepend=0.0)


@pytest.mark.parametrize("rate", [50.0, 200.0, 1000.0])
def test_poisson_gaps_are_exponential(rate: float) -> None:
    """False-failure chance: 20 Kolmogorov-Smirnov tests at 1e-5 each, 2e-4; their p-values at 1e-5 once more."""
    p_values = [
        stats.kstest(gaps(2000, seed, kind="poisson", rate=rate), "expon", args=(0, 1 / rate)).pvalue for seed in SEEDS
    ]
    assert min(p_values) > 1e-5
    assert stats.kstest(p_values, "uniform").pvalue > 1e-5


@pytest.mark.parametrize("rate", [50.0, 200.0, 1000.0])
def test_poisson_counts_are_as_spread_as_their_mean(rate: float) -> None:
    """Index of dispersion (variance ÷ mean) of counts in windows of ten expected arrivals; 1 for a Poisson process.

    With n = 4000 windows over the seeds, (n − 1)·index is χ² with n − 1 degrees of freedom: false-failure chance 1e-6.
    """
    width, num_windows, counts = 10 / rate, 200, []
    for seed in SEEDS:
        times = seconds(3000, seed, kind="poisson", rate=rate)
        assert times[-1] > width * num_windows
        counts += np.histogram(times, bins=num_windows, range=(0, width * num_windows))[0].tolist()
    degrees = len(counts) - 1
    low, high = stats.chi2.ppf([5e-7, 1 - 5e-7], degrees) / degrees
    assert low < np.var(counts, ddof=1) / np.mean(counts) < high
    assert abs(np.mean(counts) - 10) < stats.norm.ppf(1 - 5e-7) * np.sqrt(10 / len(counts))


def test_poisson_gaps_do_not_know_of_each_other() -> None:
    """Lag-1 correlation of 40,000 gaps is normal with deviation 1/√n: false-failure chance 1e-6."""
    between = gaps(40_000, 3, kind="poisson", rate=7)
    correlation = np.corrcoef(between[:-1], between[1:])[0, 1]
    assert abs(correlation) < stats.norm.ppf(1 - 5e-7) / np.sqrt(len(between))


@pytest.mark.parametrize("shape", [0.25, 1.0, 4.0, 100.0])
def test_gamma_gaps_are_gamma(shape: float) -> None:
    """False-failure chance: 20 Kolmogorov-Smirnov tests at 1e-5 each, 2e-4."""
    rate = 20.0
    for seed in SEEDS:
        between = gaps(2000, seed, kind="gamma", rate=rate, shape=shape)
        assert stats.kstest(between, "gamma", args=(shape, 0, 1 / (rate * shape))).pvalue > 1e-5


def test_gamma_of_shape_one_has_the_spread_of_poisson_and_others_have_not() -> None:
    for shape in (0.25, 1.0, 16.0):
        between = np.concatenate([gaps(2000, seed, kind="gamma", rate=5, shape=shape) for seed in SEEDS])
        assert np.std(between) / np.mean(between) == pytest.approx(shape**-0.5, rel=0.05)
        assert np.mean(between) == pytest.approx(1 / 5, rel=0.05)


@settings(deadline=None)
@given(rate=st.floats(0.01, 1e5), num_requests=st.integers(1, 300), seed=st.integers(0, 2**62))
def test_constant_is_exact_to_the_nanosecond(rate: float, num_requests: int, seed: int) -> None:
    offsets = arrival_offsets_ns(ARRIVALS.validate_python({"kind": "constant", "rate": rate}), num_requests, seed)
    assert offsets == tuple(round(index / rate * 1e9) for index in range(num_requests))


def test_constant_does_not_drift() -> None:
    """The millionth request of 3/s is due at 333,333 s, however inexact a third of a second is."""
    offsets = arrival_offsets_ns(ARRIVALS.validate_python({"kind": "constant", "rate": 3}), 1_000_000, 0)
    assert offsets is not None
    assert offsets[-1] == 333_333_000_000_000


def test_a_burst_is_at_once_and_a_closed_loop_has_no_schedule() -> None:
    assert arrival_offsets_ns(ARRIVALS.validate_python({"kind": "burst"}), 4, 9) == (0, 0, 0, 0)
    assert arrival_offsets_ns(ARRIVALS.validate_python({"kind": "closed", "concurrency": 2}), 4, 9) is None


def test_an_even_ramp_puts_each_request_where_the_expected_count_reaches_it() -> None:
    start, end, total = 2.0, 10.0, 60
    times = seconds(total, 0, kind="ramp", start_rate=start, end_rate=end)
    duration = total / ((start + end) / 2)
    counts = start * times + (end - start) * times**2 / (2 * duration)
    assert counts == pytest.approx(np.arange(total), abs=1e-6)
    assert times[-1] < duration


@pytest.mark.parametrize(("start", "end"), [(0.0, 8.0), (8.0, 0.5), (5.0, 5.0), (5.0, 5.0000001)])
def test_a_ramp_may_start_at_nothing_fall_or_be_flat(start: float, end: float) -> None:
    times = seconds(100, 0, kind="ramp", start_rate=start, end_rate=end)
    assert times[0] == 0
    assert np.all(np.diff(times) > 0)
    assert times[-1] < 100 / ((start + end) / 2)
    if start == end:
        assert times == pytest.approx(np.arange(100) / 5, abs=1e-8)


def test_a_poisson_ramp_is_a_poisson_process_in_its_own_time() -> None:
    """Gaps of the expected count are exponential with mean 1; false-failure chance 20 × 1e-5."""
    start, end, total = 2.0, 10.0, 1000
    duration = total / ((start + end) / 2)
    for seed in SEEDS:
        times = seconds(total, seed, kind="ramp", start_rate=start, end_rate=end, spacing="poisson")
        inside = np.minimum(times, duration)
        counts = start * inside + (end - start) * inside**2 / (2 * duration) + end * np.maximum(times - duration, 0)
        assert stats.kstest(np.diff(counts, prepend=0.0), "expon").pvalue > 1e-5


OPEN = st.one_of(
    st.builds(lambda rate: {"kind": "constant", "rate": rate}, st.floats(0.01, 1e6)),
    st.builds(lambda rate: {"kind": "poisson", "rate": rate}, st.floats(0.01, 1e6)),
    st.builds(
        lambda rate, shape: {"kind": "gamma", "rate": rate, "shape": shape}, st.floats(0.01, 1e6), st.floats(0.01, 1e3)
    ),
    st.builds(
        lambda start, end, spacing: {"kind": "ramp", "start_rate": start, "end_rate": end, "spacing": spacing},
        st.floats(0, 1e4),
        st.floats(0.01, 1e4),
        st.sampled_from(["even", "poisson"]),
    ),
)


@settings(max_examples=150, deadline=None)
@given(fields=OPEN, num_requests=st.integers(1, 200), seed=st.integers(0, 2**62))
def test_any_schedule_ascends_from_zero_or_later_and_repeats(
    fields: dict[str, object], num_requests: int, seed: int
) -> None:
    arrivals = ARRIVALS.validate_python(fields)
    offsets = arrival_offsets_ns(arrivals, num_requests, seed)
    assert offsets is not None
    assert len(offsets) == num_requests
    assert offsets[0] >= 0
    assert all(earlier <= later for earlier, later in pairwise(offsets))
    assert offsets == arrival_offsets_ns(arrivals, num_requests, seed)


@pytest.mark.parametrize("fields", [{"kind": "poisson", "rate": 4}, {"kind": "gamma", "rate": 4, "shape": 0.5}])
def test_more_requests_only_extend_a_schedule_and_seeds_change_it(fields: dict[str, object]) -> None:
    short, long = seconds(50, 1, **fields), seconds(80, 1, **fields)
    assert np.array_equal(long[:50], short)
    assert not np.array_equal(seconds(50, 0, **fields), short)


def test_the_same_seed_gives_the_same_schedule_in_another_process() -> None:
    code = """
import sys
from pydantic import TypeAdapter
from llmbench.workloads.arrivals import Arrivals, arrival_offsets_ns
print(arrival_offsets_ns(TypeAdapter(Arrivals).validate_json(sys.argv[1]), 200, 5))
"""
    for fields in ('{"kind":"poisson","rate":8}', '{"kind":"gamma","rate":8,"shape":0.3}'):
        said = {
            subprocess.run(
                [sys.executable, "-c", code, fields],
                capture_output=True,
                text=True,
                check=True,
                env={**os.environ, "PYTHONHASHSEED": hash_seed},
            ).stdout.strip()
            for hash_seed in ("1", "77")
        }
        assert said == {str(arrival_offsets_ns(ARRIVALS.validate_json(fields), 200, 5))}
