"""The figures that are compared: a quantile of a latency, or a total; each with its error and its margins."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from llmbench.results.duration import round_seconds
from llmbench.results.metric import RatioMetric, SampleMetric, TotalMetric
from llmbench.results.metrics import BY_NAME, ordered_of
from llmbench.results.samples import Samples
from llmbench.results.statistics import estimate_quantile, missing_beyond, required_n
from llmbench.results.units import MIN_FREEDOM, MIN_ROUNDS, Floats, Units


@dataclass(frozen=True, slots=True)
class FigureSpec:
    """`share` is the quantile of a distribution, None for a total.

    A difference is worth a verdict when it is beyond both margins: `relative` to the baseline, and `absolute` in the
    metric's unit (a share of a small latency may be too little to feel).
    """

    name: str
    metric: str
    share: float | None
    relative: float
    absolute: float

    @property
    def title(self) -> str:
        """As tables show it: `TTFT p99`, `output throughput`."""
        if self.share is None:
            return self.name.replace("_", " ").replace("slo", "SLO")
        return f"{BY_NAME[self.metric].title} p{100 * self.share:g}"

    @property
    def unit(self) -> str:
        return BY_NAME[self.metric].unit

    @property
    def better(self) -> Literal["lower", "higher"]:
        better = BY_NAME[self.metric].better
        assert better is not None
        return better


def _quantiles(metric: str, shares: tuple[float, ...], absolute: float) -> tuple[FigureSpec, ...]:
    return tuple(FigureSpec(f"{metric}_p{100 * share:g}", metric, share, 0.03, absolute) for share in shares)


FIGURES: tuple[FigureSpec, ...] = (
    *_quantiles("ttft", (0.5, 0.9, 0.99), absolute=1.0),
    *_quantiles("tpot", (0.5, 0.99), absolute=0.1),
    *_quantiles("itl", (0.5, 0.99), absolute=0.1),
    *_quantiles("e2e", (0.5, 0.9, 0.99), absolute=1.0),
    FigureSpec("output_throughput", "output_throughput", None, 0.03, 0.0),
    FigureSpec("request_throughput", "request_throughput", None, 0.03, 0.0),
    FigureSpec("goodput", "goodput", None, 0.03, 0.0),
    FigureSpec("slo_attainment", "slo_attainment", None, 0.0, 0.01),
    FigureSpec("success_share", "success_share", None, 0.0, 0.01),
)
FIGURE_BY_NAME: Mapping[str, FigureSpec] = {spec.name: spec for spec in FIGURES}


@dataclass(frozen=True, eq=False)
class Figure:
    """One figure as measured. `value` may be +inf where requests failed.

    `log_error` is the standard error of its logarithm with `freedom` degrees of freedom; None when it is not known, and
    then `lacking` says what it would take. `influence` is each unit's part in that error (its squares sum
    to the variance) and allows pairing. `across_rounds`: a unit is a round, and the error covers how rounds differ.
    """

    value: float
    n: int
    num_failed: int
    num_rounds: int
    log_error: float | None
    freedom: float
    across_rounds: bool
    lacking: str | None = None
    influence: Floats | None = None


def figures_of(samples: Samples) -> dict[str, Figure]:
    """Every figure of FIGURES that is defined for `samples`, by name."""
    found = {}
    for spec in FIGURES:
        metric = BY_NAME[spec.metric]
        assert not isinstance(metric, RatioMetric), "its error is not known"
        figure = (
            _of_distribution(samples, metric, spec.share)
            if isinstance(metric, SampleMetric)
            else _of_total(samples, metric)
        )
        if figure is not None:
            found[spec.name] = figure
    return found


def _of_distribution(samples: Samples, metric: SampleMetric, share: float | None) -> Figure | None:
    assert share is not None
    ordered = ordered_of(samples, metric.name)
    if ordered is None:
        return None
    units = samples.units
    num_failed = int(ordered.counts[np.isinf(ordered.values)].sum())
    needed = required_n(share)
    if ordered.n < needed:
        lacking = f"needs {needed} samples, has {ordered.n}"
        return _figure(samples, ordered.quantile(share), ordered.n, num_failed, None, lacking)
    estimate = estimate_quantile(ordered, units, share)
    if estimate is None:
        lacking = missing_beyond(ordered, units, share) or _more(units, "samples")
        return _figure(samples, ordered.quantile(share), ordered.n, num_failed, None, lacking)
    if not math.isfinite(estimate.interval.high):
        lacking = "too many requests failed to say how slow the others make it"
        return _figure(samples, estimate.value, ordered.n, num_failed, None, lacking)
    if estimate.interval.low <= 0:
        # Tokens that come several at a time are 0 ms apart.
        return _figure(samples, estimate.value, ordered.n, num_failed, None, "may be 0, so there is no ratio to it")
    figure = _figure(samples, estimate.value, ordered.n, num_failed, estimate.influence, None)
    return replace(figure, freedom=estimate.freedom)


def _of_total(samples: Samples, metric: TotalMetric) -> Figure | None:
    value = metric.value(samples)
    if value is None:
        return None
    assert metric.amounts is not None
    counted = metric.over(samples)
    amounts = metric.amounts(counted)
    assert amounts is not None
    units, n, num_failed = counted.units, len(samples), int((~samples.ok).sum())
    everyone = np.arange(len(counted))
    if metric.per == "request":
        size = units.totals(np.ones(n), everyone)
    elif units.are_rounds:
        size = np.array(list(round_seconds(samples).values()))
    else:
        # The blocks of one round overlap in time, so there is no rate of each.
        return _figure(samples, value, n, num_failed, None, f"needs {MIN_ROUNDS} rounds")
    if units.freedom < MIN_FREEDOM:
        return _figure(samples, value, n, num_failed, None, _more(units, "requests"))
    if value == 0:
        return _figure(samples, value, n, num_failed, np.zeros(len(units)), None)
    influence = units.centred(units.totals(amounts, everyone) - value * size) / float(amounts.sum())
    return _figure(samples, value, n, num_failed, influence, None)


def _figure(
    samples: Samples, value: float, n: int, num_failed: int, influence: Floats | None, lacking: str | None
) -> Figure:
    units = samples.units
    return Figure(
        value=value,
        n=n,
        num_failed=num_failed,
        num_rounds=samples.num_rounds,
        log_error=None if influence is None else math.sqrt(float((influence**2).sum())),
        freedom=units.freedom,
        across_rounds=units.are_rounds,
        lacking=lacking,
        influence=influence,
    )


def _more(units: Units, what: str) -> str:
    if units.are_rounds:
        return f"needs more {what}: these depend on each other too much to bound it"
    return f"needs more {what}, or {MIN_ROUNDS} rounds"
