"""Whether requests left as the workload's arrival process asks: rate, dispersion and distribution of the gaps.

A schedule drawn at random is off its process by chance, and a test of what was sent cannot tell that from what sending
did. So each figure is taken of the due times too, and judged is by how far sending moved it: no further than chance
moves it from one plan to the next, or no further than a tolerance that no engine would notice.
"""

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
# What chance moves a figure by, and exceeds once in a thousand plans: in standard errors, and in Kolmogorov-Smirnov
# distances times the root of n.
CHANCE_Z = 3.29
CHANCE_KS = 1.95
# What sending may move a figure by however many requests there are: of the rate, a share; of the dispersion, as much as
# still passes for Poisson; of the gaps, one in twenty.
RATE_TOLERANCE = 0.01
DISPERSION_TOLERANCE = 0.15
KS_TOLERANCE = 0.05

_NS_PER_S = 1e9
_MEAN_PER_WINDOW = 10

Floats = NDArray[np.float64]


def arrival_fit(arrivals: Arrivals, due_ns: Sequence[int], sent_ns: Sequence[int]) -> ArrivalManifest | None:
    """How the times at which requests were due and sent compare with a Poisson or gamma process as asked.

    None for other kinds, whose every due time is fixed so that sent − due says all, and for fewer than MIN_GAPS gaps.
    The index of dispersion is 1 for Poisson arrivals alone, and only tested there.
    """
    if not isinstance(arrivals, PoissonArrivals | GammaArrivals) or len(sent_ns) <= MIN_GAPS:
        return None
    due_s, sent_s = (np.sort(np.asarray(stamps, np.float64)) / _NS_PER_S for stamps in (due_ns, sent_ns))
    moved = _distance(np.sort(np.diff(due_s)), np.sort(np.diff(sent_s)))
    return _fit(arrivals, sent_s).model_copy(update={"due": _fit(arrivals, due_s), "ks_moved": moved})


def misfit(fit: ArrivalManifest) -> str | None:
    """In which respect sending made other arrivals than those asked for, in words; None when it did not."""
    found, num_gaps = [], fit.n - 1
    due_rate = fit.asked_rate if fit.due is None else fit.due.rate
    if abs(fit.rate / due_rate - 1) > max(RATE_TOLERANCE, CHANCE_Z * fit.asked_gap_cv / math.sqrt(num_gaps)):
        found.append(f"{fit.rate:.4g} requests/s instead of {due_rate:.4g}")
    due_dispersion = 1.0 if fit.due is None else fit.due.dispersion
    if fit.dispersion is not None and due_dispersion is not None:
        num_windows = num_gaps * fit.asked_rate / (due_rate * _MEAN_PER_WINDOW)
        chance = CHANCE_Z * math.sqrt(2 / num_windows)
        if abs(fit.dispersion - due_dispersion) > max(DISPERSION_TOLERANCE, chance):
            found.append(f"index of dispersion {fit.dispersion:.2f} instead of {due_dispersion:.2f}")
    if fit.ks_moved is not None and fit.ks_moved > max(KS_TOLERANCE, CHANCE_KS / math.sqrt(num_gaps)):
        found.append(f"gaps not distributed as planned (Kolmogorov-Smirnov distance {fit.ks_moved:.3f})")
    return ", ".join(found) or None


def _fit(arrivals: PoissonArrivals | GammaArrivals, at_s: Floats) -> ArrivalManifest:
    """`at_s`, sorted and in s, against the process."""
    gaps_s = np.diff(at_s)
    shape = arrivals.shape if isinstance(arrivals, GammaArrivals) else 1.0
    distance, ks_p = _kolmogorov_smirnov(gaps_s * arrivals.rate * shape, shape)
    dispersion, dispersion_p = _dispersion(at_s, arrivals.rate) if shape == 1.0 else (None, None)
    return ArrivalManifest(
        n=len(at_s),
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


def _distance(one: Floats, other: Floats) -> float:
    """The largest difference between the empirical distributions of two sorted samples."""
    values = np.concatenate((one, other))
    shares = [np.searchsorted(sample, values, side="right") / len(sample) for sample in (one, other)]
    return float(np.abs(shares[0] - shares[1]).max())


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
