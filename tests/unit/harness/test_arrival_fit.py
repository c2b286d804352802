"""The tests of arrivals against scipy's, and against schedules that are right or wrong."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from llmbench.harness.arrival_fit import arrival_fit, misfit
from llmbench.results.manifest import ArrivalManifest
from llmbench.workloads.arrivals import Arrivals, ConstantArrivals, GammaArrivals, PoissonArrivals, arrival_offsets_ns

POISSON = PoissonArrivals(rate=50)


def fitted(arrivals: Arrivals, sent_ns: list[int], due_ns: list[int] | None = None) -> ArrivalManifest:
    fit = arrival_fit(arrivals, due_ns or sent_ns, sent_ns)
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


def test_what_the_plan_drew_by_chance_is_not_the_sending_s_fault() -> None:
    """Of 400 plans some are far off their process; sent some 20 µs late each, none is invalid. The seeds are fixed."""
    p_due = []
    for seed in range(400):
        due = schedule(POISSON, 300, seed)
        rng = np.random.default_rng(seed)
        fit = fitted(POISSON, [each + round(rng.exponential(20_000)) for each in due], due)
        assert misfit(fit) is None
        assert fit.due is not None
        p_due.append(min(p for p in (fit.due.rate_p, fit.due.dispersion_p, fit.due.ks_p) if p is not None))
    assert min(p_due) < 0.001


def test_how_far_sending_moved_the_gaps_is_scipy_s_two_sample_distance() -> None:
    due = schedule(POISSON)
    sent = [each + index % 7 * 3_000_000 for index, each in enumerate(due)]
    expected = stats.ks_2samp(np.diff(due), np.diff(np.sort(sent))).statistic
    assert fitted(POISSON, sent, due).ks_moved == pytest.approx(expected, abs=1e-12)


def test_the_index_of_dispersion_of_a_poisson_process_is_near_1() -> None:
    fit = fitted(POISSON, schedule(POISSON, 5000))
    assert fit.dispersion == pytest.approx(1.0, abs=0.15)


def test_sends_that_wait_for_each_other_do_not_fit() -> None:
    """A loop that sends at most one request in 15 ms: the rate holds, the bursts are gone."""
    sent, free = [], 0
    for due in schedule(POISSON):
        sent.append(max(due, free))
        free = sent[-1] + 15_000_000
    found = misfit(fitted(POISSON, sent, schedule(POISSON)))
    assert found is not None
    assert "gaps not distributed as planned" in found


def test_a_schedule_that_drifts_has_the_wrong_rate() -> None:
    due = schedule(POISSON)
    found = misfit(fitted(POISSON, [round(each * 1.2) for each in due], due))
    assert found is not None
    assert f"requests/s instead of {1e9 * (len(due) - 1) / (due[-1] - due[0]):.4g}" in found


def test_sends_in_batches_do_not_fit() -> None:
    due = schedule(POISSON)
    found = misfit(fitted(POISSON, [-(-each // 500_000_000) * 500_000_000 for each in due], due))
    assert found is not None
    assert "gaps not distributed as planned" in found
    assert "index of dispersion" in found


def test_sends_that_smooth_bursts_away_have_another_dispersion() -> None:
    """The counts of windows of 200 ms are evened out, a window's own gaps are not."""
    due = schedule(POISSON, 5000)
    even = [round(index * 20_000_000) for index in range(len(due))]
    found = misfit(fitted(POISSON, [(a + 3 * b) // 4 for a, b in zip(due, even, strict=True)], due))
    assert found is not None
    assert "index of dispersion" in found


def test_gamma_arrivals_are_held_to_their_rate_and_show_their_variation() -> None:
    arrivals = GammaArrivals(rate=50, shape=0.25)
    fit = fitted(arrivals, schedule(arrivals, 2000))
    assert misfit(fit) is None
    assert (fit.asked_gap_cv, fit.dispersion_p) == (2.0, None)
    assert fit.gap_cv == pytest.approx(2.0, rel=0.15)
    due = schedule(arrivals, 2000)
    assert misfit(fitted(arrivals, [each * 2 for each in due], due)) is not None


def test_nothing_is_said_where_nothing_can_be() -> None:
    assert arrival_fit(POISSON, schedule(POISSON, 20), schedule(POISSON, 20)) is None
    constant = ConstantArrivals(rate=50)
    assert arrival_fit(constant, schedule(constant), schedule(constant)) is None
