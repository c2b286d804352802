"""Comparisons as marks on a scale: how many times better or worse, how sure, and what would be worth a verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from llmbench.reports.comparison_rows import ComparisonRow, kind, row_of
from llmbench.reports.numbers import digits
from llmbench.results.compare import Comparison

# What lies further out is drawn at the edge; its numbers stand beside it.
_WIDEST = math.log(8)
_NARROWEST = math.log(1.1)


@dataclass(frozen=True, slots=True)
class Difference:
    """One figure. Places are percentages of the scale, better to the right; None where there is nothing to draw.

    `margin_low` to `margin_high` is the band in which a difference is not worth a verdict.
    """

    row: ComparisonRow
    verdict: str
    at: float | None
    low: float | None
    high: float | None
    margin_low: float
    margin_high: float


@dataclass(frozen=True, slots=True)
class Pair:
    """Two engines or runs at one level. `edge` is the gain at the right end of the scale, its inverse at the left."""

    subject: str
    baseline: str
    level: str
    edge: str
    differences: tuple[Difference, ...]


def pairs_of(comparisons: Sequence[Comparison]) -> tuple[Pair, ...]:
    """The comparisons by pair and level, in the order given."""
    return tuple(
        _pair(subject, baseline, level, list(group))
        for (subject, baseline, level), group in groupby(
            comparisons, key=lambda each: (each.subject, each.baseline, each.level)
        )
    )


def _pair(subject: str, baseline: str, level: str, comparisons: list[Comparison]) -> Pair:
    reached = [
        abs(math.log(gain))
        for each in comparisons
        for gain in (each.gain, *(each.gain_interval or ()))
        if gain is not None and 0 < gain < math.inf
    ]
    reach = min(_WIDEST, max(_NARROWEST, 1.06 * max(reached, default=0.0)))
    return Pair(
        subject=subject,
        baseline=baseline,
        level=level,
        edge=digits(math.exp(reach)),
        differences=tuple(_difference(each, reach) for each in comparisons),
    )


def _difference(comparison: Comparison, reach: float) -> Difference:
    figure = comparison.baseline_figure
    margin = math.log1p(comparison.margin.of(figure.value if figure is not None else 0.0))
    low, high = comparison.gain_interval or (None, None)
    return Difference(
        row=row_of(comparison),
        verdict=kind(comparison),
        at=_place(comparison.gain, reach),
        low=_place(low, reach),
        high=_place(high, reach),
        margin_low=_place(math.exp(-margin), reach) or 0.0,
        margin_high=_place(math.exp(margin), reach) or 100.0,
    )


def _place(gain: float | None, reach: float) -> float | None:
    if gain is None or math.isnan(gain):
        return None
    logarithm = -math.inf if gain <= 0 else math.log(gain)
    return round(50 + 50 * min(1.0, max(-1.0, logarithm / reach)), 2)
