"""The kinds of metrics: what has a distribution, what is summed up, and what is a ratio of the whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from llmbench.results.duration import duration_s
from llmbench.results.samples import Floats, Ints, Samples

Better = Literal["lower", "higher"] | None


class Values(NamedTuple):
    """Samples of a metric. `request` is the index of the request each belongs to; `weights` says how often each counts,
    None for once. +inf stands for a failed request; what is not defined for a request is left out."""

    values: Floats
    request: Ints
    weights: Ints | None = None


@dataclass(frozen=True, slots=True)
class SampleMetric:
    """A metric with a distribution: one value per request, gap or chunk."""

    name: str
    title: str
    unit: str
    better: Better
    formula: str
    values: Callable[[Samples], Values]


@dataclass(frozen=True, slots=True)
class TotalMetric:
    """A metric with one value for all requests together: what each contributes, summed, per second or per request.

    `amounts` is None for the duration itself, and gives None where the metric is not defined.
    """

    name: str
    title: str
    unit: str
    better: Better
    formula: str
    per: Literal["second", "request"]
    amounts: Callable[[Samples], Floats | None] | None

    def over(self, samples: Samples) -> Samples:
        """The requests that contribute: to a rate all, each with what of it lies in the window; else those that are
        due there."""
        return samples.whole if self.per == "second" else samples

    def value(self, samples: Samples) -> float | None:
        """The total; None where it is not defined."""
        if self.amounts is None:
            return duration_s(samples)
        amounts = self.amounts(self.over(samples))
        size = duration_s(samples) if self.per == "second" else float(len(samples))
        return None if amounts is None or size is None else float(amounts.sum()) / size


@dataclass(frozen=True, slots=True)
class RatioMetric:
    """A metric with one value for all requests together that no request has a part of of its own."""

    name: str
    title: str
    unit: str
    better: Better
    formula: str
    value: Callable[[Samples], float | None]


MetricSpec = SampleMetric | TotalMetric | RatioMetric
