"""The tests of arrivals against scipy's, and against schedules that are right or wrong."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from llmbench.harness.arrival_fit import ALPHA, arrival_fit, misfit
from llmbench.results.manifest import ArrivalManifest
from llmbench.workloads.arrivals import Arrivals, ConstantArrivals, GammaArrivals, PoissonArrivals, arrival_offsets_ns

POISSON = PoissonArrivals(rate=50)


def fitted(arrivals: Arrivals, sent_ns: list[int]) -> ArrivalManifest:
    fit = arrival_fit(arrivals, sent_ns)
    assert fit is not None
    return fit


def schedule(arrivals: Arrivals, n: int = 1000, seed: int = 0) -> list[int]:
    offsets = arrival_offsets_ns(arrivals, n, seed)
    assert offsets is not None
    return list(offsets)


def test_the_kolmogorov_smirnov_test_is_scipy_s() -> None:
    sent = schedule(POISSON)
    expected = stats.kstest(np.diff(sent) / 1e9, stats.expon(scale=1 / 50).cdf)
    fit = fitted(POISSON, sent)
    assert fit.ks == pytest.approx(expected.statistic, rel=1e-9)
    assert fit.ks_p == pytest.approx(expected.pvalue, abs=0.01)


@pytest.mark.parametrize("shape", [0.25, 4.0])
def test_it_is_scipy_s_for_gamma_arrivals_too(shape: float) -> None:
    sent = schedule(GammaArrivals(rate=50, shape=shape))
    expected = stats.kstest(np.diff(sent) / 1e9, stats.gamma(shape, scale=1 / (50 * shape)).cdf)
    fit = fitted(GammaArrivals(rate=50, shape=shape), sent)
    assert (fit.ks, fit.ks_p) == (pytest.approx(expected.statistic, rel=1e-6), pytest.approx(expected.pvalue, abs=0.01))


def test_right_schedules_fit() -> None:
    """Three tests each at 0.001: of 100 schedules 0.3 are called wrong on average, and 4 or more with a chance of 3e-4.
    The seeds are fixed."""
    assert sum(misfit(fitted(POISSON, schedule(POISSON, 500, seed))) is not None for seed in range(100)) < 4


def test_the_index_of_dispersion_of_a_poisson_process_is_near_1() -> None:
    fit = fitted(POISSON, schedule(POISSON, 5000))
    assert fit.dispersion == pytest.approx(1.0, abs=0.15)


def test_sends_that_wait_for_each_other_do_not_fit() -> None:
    """A loop that sends at most one request in 15 ms: the rate holds, the bursts are gone."""
    sent, free = [], 0
    for due in schedule(POISSON):
        sent.append(max(due, free))
        free = sent[-1] + 15_000_000
    found = misfit(fitted(POISSON, sent))
    assert found is not None
    assert "gaps not distributed as asked" in found


def test_a_schedule_that_drifts_has_the_wrong_rate() -> None:
    found = misfit(fitted(POISSON, [round(due * 1.2) for due in schedule(POISSON)]))
    assert found is not None
    assert "requests/s instead of 50" in found


def test_sends_in_batches_do_not_fit() -> None:
    batched = [-(-due // 500_000_000) * 500_000_000 for due in schedule(POISSON)]
    fit = fitted(POISSON, batched)
    assert fit.ks_p is not None
    assert fit.ks_p < ALPHA


def test_gamma_arrivals_are_held_to_their_rate_and_show_their_variation() -> None:
    arrivals = GammaArrivals(rate=50, shape=0.25)
    fit = fitted(arrivals, schedule(arrivals, 2000))
    assert misfit(fit) is None
    assert (fit.asked_gap_cv, fit.dispersion_p) == (2.0, None)
    assert fit.gap_cv == pytest.approx(2.0, rel=0.15)
    assert misfit(fitted(arrivals, [due * 2 for due in schedule(arrivals, 2000)])) is not None


def test_nothing_is_said_where_nothing_can_be() -> None:
    assert arrival_fit(POISSON, schedule(POISSON, 20)) is None
    assert arrival_fit(ConstantArrivals(rate=50), schedule(ConstantArrivals(rate=50))) is None
