"""Distributions of a metric, and how sure they are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from llmbench.results.units import CONFIDENCE as CONFIDENCE
from llmbench.results.units import MIN_FREEDOM, Floats, Ints, Units, student_t
from llmbench.results.units import MIN_ROUNDS as MIN_ROUNDS

QUANTILES = (0.5, 0.9, 0.95, 0.99)
# How many independent samples' worth must lie beyond a quantile before its interval holds; measured in
# docs/statistics.md.
MIN_BEYOND = 2
RARE = 0.05  # of the requests


class Interval(NamedTuple):
    """A range that covers the true value with probability CONFIDENCE; `high` may be +inf where requests failed."""

    low: float
    high: float


class Quantile(NamedTuple):
    """`interval` is None where there are too few independent samples to bound the quantile on both sides."""

    value: float
    interval: Interval | None


@dataclass(frozen=True, slots=True)
class Distribution:
    """A metric over `n` samples, `num_failed` of which are +inf.

    `mean`, `std` and `minimum` are over the finite samples; None where there is none (`std` needs two). `quantiles`
    maps a share to its Quantile, and holds None where `n` is too small to say anything of it: see `required_n`.
    """

    n: int
    num_failed: int
    mean: float | None
    mean_interval: Interval | None
    std: float | None
    minimum: float | None
    maximum: float | None
    quantiles: dict[float, Quantile | None]

    @property
    def p50(self) -> float | None:
        return self.at(0.5)

    @property
    def p90(self) -> float | None:
        return self.at(0.9)

    @property
    def p95(self) -> float | None:
        return self.at(0.95)

    @property
    def p99(self) -> float | None:
        return self.at(0.99)

    def at(self, share: float) -> float | None:
        """The quantile at `share`, one of QUANTILES; None where `n` is below `required_n(share)`."""
        quantile = self.quantiles[share]
        return None if quantile is None else quantile.value

    def interval_at(self, share: float) -> Interval | None:
        quantile = self.quantiles[share]
        return None if quantile is None else quantile.interval


def required_n(share: float) -> int:
    """How many samples it takes before the largest of them lies above the quantile with probability CONFIDENCE.

    5 for p50, 29 for p90, 59 for p95, 299 for p99. Source: Wilks 1941.
    """
    return math.ceil(math.log(1 - CONFIDENCE) / math.log(share))


@dataclass(frozen=True, eq=False)
class Ordered:
    """Values in ascending order, +inf for failures, with how often each counts, the request it belongs to (an index in
    due order) and that request's unit."""

    values: Floats
    counts: Ints
    cumulative: Ints
    request: Ints
    unit: Ints

    @property
    def n(self) -> int:
        return int(self.cumulative[-1])

    def quantile(self, share: float) -> float:
        """Interpolated as numpy's default does (type 7 of Hyndman and Fan 1996); +inf as soon as an infinite value
        takes part."""
        position = share * (self.n - 1)
        below, above = self._ranked(math.floor(position) + 1), self._ranked(math.ceil(position) + 1)
        # Not `below + fraction * (above - below)`: inf - inf is nan.
        return below if below == above else below + (position - math.floor(position)) * (above - below)

    def _ranked(self, rank: int) -> float:
        return float(self.values[np.searchsorted(self.cumulative, rank)])

    def between(self, low: float, high: float) -> Interval | None:
        """The values between which the quantiles from `low` to `high` lie; None where the samples do not reach."""
        above = math.ceil(high * self.n) + 1
        if above > self.n:
            return None
        return Interval(self._ranked(max(1, math.floor(low * self.n))), self._ranked(above))

    def lumps(self, value: float) -> tuple[int, int]:
        """How many requests have a sample of at least `value`, and in how many runs of neighbours they come."""
        is_beyond = np.zeros(int(self.request.max()) + 1, bool)
        is_beyond[self.request[np.searchsorted(self.values, value, "left") :]] = True
        return int(is_beyond.sum()), int(is_beyond[0]) + int((is_beyond[1:] & ~is_beyond[:-1]).sum())


def order(values: Floats, weights: Ints | None, request: Ints, units: Units) -> Ordered:
    """`values`, each counted `weights` times (once if None), of the requests with index `request`. None is NaN."""
    ascending = np.argsort(values, kind="stable")
    counts = np.ones(values.size, np.int64) if weights is None else weights[ascending]
    requests = request[ascending]
    return Ordered(values[ascending], counts, np.cumsum(counts), requests, units.of_request[requests])


def samples_per_independent(ordered: Ordered, units: Units) -> float:
    """How many samples are worth one independent one: 1 where neighbours in due order have nothing in common.

    (1 + ρ) / (1 − ρ) as of a first-order autoregression, ρ being the correlation of the ranks of neighbours within a
    round, which failures at +inf and long tails leave defined. Source: Bayley and Hammersley 1946.
    """
    is_seen = np.zeros(len(units.of_request), bool)
    is_seen[ordered.request] = True
    if is_seen.sum() <= len(units):
        return 1.0  # one request a unit, or samples counted on a grid: their order is not known
    first = np.searchsorted(ordered.values, ordered.values, "left")
    # Equal values share the middle of their ranks: those of their order alone would look like a trend.
    ranks = (first + np.searchsorted(ordered.values, ordered.values, "right")) / 2.0
    in_due_order = np.argsort(ordered.request, kind="stable")
    ranks, round_ = ranks[in_due_order], units.round_of_unit[ordered.unit[in_due_order]]
    ranks -= (np.bincount(round_, ranks) / np.maximum(1, np.bincount(round_)))[round_]
    spread = float((ranks**2).mean())
    if spread == 0:
        return 1.0
    correlation = min(0.999, float((ranks[1:] * ranks[:-1]).mean()) / spread)
    return max(1.0, (1 + correlation) / (1 - correlation))


def missing_beyond(ordered: Ordered, units: Units, share: float) -> str | None:
    """What an interval of the quantile at `share` lacks, as "needs …, has …"; None if there are samples enough.

    Fewer than MIN_BEYOND independent samples' worth beyond the quantile say too little of how far out it may lie.
    """
    beyond = ordered.n * min(share, 1 - share)
    # Sorting is left out where even neighbours that are nearly alike would do.
    if beyond >= 2000 * MIN_BEYOND:
        return None
    worth = samples_per_independent(ordered, units)
    if beyond >= MIN_BEYOND * worth:
        return None
    needed = math.ceil(MIN_BEYOND * worth / min(share, 1 - share))
    return f"needs {needed} samples, has {ordered.n}: neighbours are alike, {worth:.1f} are worth one"


class QuantileEstimate(NamedTuple):
    """`influence` says how much each unit pulls the logarithm of `value`; its squares sum to the variance of that, with
    `freedom` degrees of freedom."""

    value: float
    interval: Interval
    influence: Floats
    freedom: float


def estimate_quantile(ordered: Ordered, units: Units, share: float) -> QuantileEstimate | None:
    """The quantile at `share` with its interval; None where the samples do not bound it.

    The share of samples at or below the quantile is a sum over units: its standard error comes from how the units
    differ, and the interval of that share, on the logit scale, is read back as values (Woodruff 1952; Francisco and
    Fuller 1991). Nothing is assumed of the distribution, and failures at +inf are values like others. How often it
    covers the truth is measured in docs/statistics.md.
    """
    if units.freedom < MIN_FREEDOM or missing_beyond(ordered, units, share) is not None:
        return None
    value = ordered.quantile(share)
    # Where many samples equal the quantile, "below" and "at or below" differ: the less certain of the two counts.
    deviations, error = max(
        (_deviations(ordered, units, int(np.searchsorted(ordered.values, value, side))) for side in _SIDES),
        key=lambda found: found[1],
    )
    freedom = _freedom(ordered, units, value)
    t = student_t((1 + CONFIDENCE) / 2, freedom)
    logit, reach = math.log(share / (1 - share)), t * error / (share * (1 - share))
    if reach > _MOST_LOGIT:
        return None
    interval = ordered.between(1 / (1 + math.exp(reach - logit)), 1 / (1 + math.exp(-reach - logit)))
    if interval is None:
        return None
    influence = np.zeros(len(units))
    if error > 0 and interval.low > 0 and math.isfinite(interval.high):
        # More samples below the quantile in a unit pull it down.
        influence = -deviations * (math.log(interval.high / interval.low) / (2 * t * error))
    return QuantileEstimate(value, interval, influence, freedom)


def _freedom(ordered: Ordered, units: Units, value: float) -> float:
    """Degrees of freedom of the error of a quantile, `value`.

    Where what lies beyond it is rare and comes in a few lumps, how the units' counts differ says less than their number
    promises. The variance of a count of m events in C lumps is known to a relative squared error of
    E[size⁴] / (E[size²]² C): 1 / C where all lumps are equal, 6 / C where their sizes are exponential. 4 / C is taken,
    less the 4 / m of events that come one by one, beside the 2 / freedom of a normal variance.
    """
    beyond, lumps = ordered.lumps(value)
    if beyond > RARE * len(units.of_request):
        return units.freedom
    return 1 / (1 / units.freedom + 2 * (1 / lumps - 1 / beyond))


_MOST_LOGIT = 50.0  # beyond any share that a count of samples can tell from 0 or 1
_SIDES: tuple[Literal["left", "right"], ...] = ("left", "right")


def _deviations(ordered: Ordered, units: Units, inside: int) -> tuple[Floats, float]:
    """How each unit's share of the first `inside` samples deviates, and the standard error of the whole's share."""
    per_unit = np.bincount(ordered.unit, ordered.counts, len(units))
    below = np.bincount(ordered.unit[:inside], ordered.counts[:inside], len(units))
    deviations = units.centred((below - per_unit * (below.sum() / ordered.n)) / ordered.n)
    return deviations, math.sqrt(float((deviations**2).sum()))


def estimate_mean(ordered: Ordered, units: Units) -> tuple[float, Interval | None] | None:
    """The mean of the finite values and its interval; None if there are none."""
    finite = np.isfinite(ordered.values)
    values, counts, unit = ordered.values[finite], ordered.counts[finite], ordered.unit[finite]
    if not values.size:
        return None
    mean = float(np.average(values, weights=counts))
    if units.freedom < MIN_FREEDOM:
        return mean, None
    deviations = units.centred(np.bincount(unit, counts * (values - mean), len(units)) / counts.sum())
    reach = student_t((1 + CONFIDENCE) / 2, units.freedom) * math.sqrt(float((deviations**2).sum()))
    return mean, Interval(mean - reach, mean + reach)


def distribution(
    values: Floats, weights: Ints | None, request: Ints, units: Units, *, intervals: bool = True
) -> Distribution | None:
    """The distribution of `values`, each counted `weights` times (once if None); None if there are no values.

    `request` is the index of the request each value belongs to.
    """
    return describe(order(values, weights, request, units), units, intervals=intervals) if values.size else None


def describe(ordered: Ordered, units: Units, *, intervals: bool = True) -> Distribution:
    """The distribution of ordered values; `intervals` may be left out, as they take the longest."""
    finite = np.isfinite(ordered.values)
    num_finite = int(ordered.counts[finite].sum())
    mean, mean_interval = estimate_mean(ordered, units) or (None, None)
    std = None
    if mean is not None and num_finite >= 2:
        squares = ordered.counts[finite] * (ordered.values[finite] - mean) ** 2
        std = math.sqrt(float(squares.sum()) / (num_finite - 1))
    return Distribution(
        n=ordered.n,
        num_failed=ordered.n - num_finite,
        mean=mean,
        mean_interval=mean_interval if intervals else None,
        std=std,
        minimum=float(ordered.values[0]) if num_finite else None,
        maximum=float(ordered.values[-1]),
        quantiles={share: _quantile(ordered, units, share, intervals) for share in QUANTILES},
    )


def _quantile(ordered: Ordered, units: Units, share: float, intervals: bool) -> Quantile | None:
    if ordered.n < required_n(share):
        return None
    estimate = estimate_quantile(ordered, units, share) if intervals else None
    return Quantile(ordered.quantile(share), None if estimate is None else estimate.interval)
