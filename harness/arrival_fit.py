"""Whether requests left as the workload's arrival process asks: rate, dispersion and distribution of the gaps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from llmbench.results.manifest import ArrivalManifest
from llmbench.workloads.arrivals import Arrivals, GammaArrivals, PoissonArrivals

# Below this many gaps no test can say anything.
MIN_GAPS = 20
MIN_WINDOWS = 10
# A right schedule is called wrong once in a thousand trials by each test.
ALPHA = 0.001

_NS_PER_S = 1e9
_MEAN_PER_WINDOW = 10

Floats = NDArray[np.float64]


def arrival_fit(arrivals: Arrivals, sent_ns: Sequence[int]) -> ArrivalManifest | None:
    """How the times at which requests were sent compare with a Poisson or gamma process as asked.

    None for other kinds, whose every due time is fixed so that sent − due says all, and for fewer than MIN_GAPS gaps.
    The index of dispersion is 1 for Poisson arrivals alone, and only tested there.
    """
    if not isinstance(arrivals, PoissonArrivals | GammaArrivals) or len(sent_ns) <= MIN_GAPS:
        return None
    sent_s = np.sort(np.asarray(sent_ns, np.float64)) / _NS_PER_S
    gaps_s = np.diff(sent_s)
    shape = arrivals.shape if isinstance(arrivals, GammaArrivals) else 1.0
    distance, ks_p = _kolmogorov_smirnov(gaps_s * arrivals.rate * shape, shape)
    dispersion, dispersion_p = _dispersion(sent_s, arrivals.rate) if shape == 1.0 else (None, None)
    return ArrivalManifest(
        n=len(sent_ns),
        asked_rate=arrivals.rate,
        rate=float(1 / gaps_s.mean()),
        rate_p=_gamma_p(float(gaps_s.sum()) * arrivals.rate * shape, len(gaps_s) * shape),
        gap_cv=float(gaps_s.std(ddof=1) / gaps_s.mean()),
        asked_gap_cv=1 / math.sqrt(shape),
        dispersion=dispersion,
        dispersion_p=dispersion_p,
        ks=distance,
        ks_p=ks_p,
    )


def misfit(fit: ArrivalManifest) -> str | None:
    """In which respect the arrivals were not those asked for, in words; None when they fit."""
    found = []
    if fit.rate_p < ALPHA:
        found.append(f"{fit.rate:.4g} requests/s instead of {fit.asked_rate:g} (p = {fit.rate_p:.1g})")
    if fit.dispersion_p is not None and fit.dispersion_p < ALPHA:
        found.append(f"index of dispersion {fit.dispersion:.2f} instead of 1 (p = {fit.dispersion_p:.1g})")
    if fit.ks_p is not None and fit.ks_p < ALPHA:
        found.append(f"gaps not distributed as asked (Kolmogorov-Smirnov D = {fit.ks:.3f}, p = {fit.ks_p:.1g})")
    return ", ".join(found) or None


def _dispersion(sent_s: Floats, rate: float) -> tuple[float | None, float | None]:
    """Variance ÷ mean of the counts in equal windows, and its two-sided p: times n − 1 it is χ² of n − 1 degrees."""
    width_s = _MEAN_PER_WINDOW / rate
    num_windows = int((sent_s[-1] - sent_s[0]) / width_s)
    if num_windows < MIN_WINDOWS:
        return None, None
    edges = sent_s[0] + width_s * np.arange(num_windows + 1)
    counts = np.histogram(sent_s, edges)[0]
    index = float(counts.var(ddof=1) / counts.mean())
    freedom = num_windows - 1
    return index, _gamma_p(index * freedom / 2, freedom / 2)


def _gamma_p(value: float, shape: float) -> float:
    """Two-sided p of a gamma(shape, 1) variate: what a sum of gaps is, and half of a χ² of 2 · shape degrees."""
    from scipy.special import gammainc, gammaincc

    return min(1.0, 2 * float(min(gammainc(shape, value), gammaincc(shape, value))))


def _kolmogorov_smirnov(gaps: Floats, shape: float) -> tuple[float, float]:
    """Distance of the gaps from a gamma(shape, 1) distribution, and its p: the limiting distribution, with Stephens'
    (1970) correction for a finite number."""
    from scipy.special import gammainc, kolmogorov

    n = len(gaps)
    expected = gammainc(shape, np.sort(gaps))
    steps = np.arange(n + 1) / n
    distance = float(max((steps[1:] - expected).max(), (expected - steps[:-1]).max()))
    return distance, float(kolmogorov(distance * (math.sqrt(n) + 0.12 + 0.11 / math.sqrt(n))))
