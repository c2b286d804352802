"""Two engines asked the same: how much faster one is, and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from llmbench.results.metrics import BY_NAME, values_of
from llmbench.results.samples import Floats, Ints, Samples
from llmbench.results.statistics import (
    CONFIDENCE,
    MIN_BLOCKS,
    Interval,
    number_blocks,
    quantile_of,
    required_n,
    resampled_counts,
)

Verdict = Literal["faster", "slower", "no difference shown", "insufficient data"]

# Below this a difference is not worth a verdict, however sure it is.
RELATIVE_MARGIN = 0.03


@dataclass(frozen=True, slots=True)
class Comparison:
    """`subject` against `baseline` by one quantile of one metric.

    `ratio` is the subject's figure over the baseline's, `interval` its range; both None with too little data.
    """

    metric: str
    share: float
    subject: str
    baseline: str
    ratio: float | None
    interval: Interval | None
    verdict: Verdict


def compare(subject: Samples, baseline: Samples, metric: str, share: float = 0.5) -> Comparison:
    """How `subject` does against `baseline` at the quantile `share` of a metric of which lower is better.

    Both were asked the same requests in the same rounds, so that each resample draws the same blocks of both: what a
    round or a long prompt did to both cancels. `faster` or `slower` needs the whole interval beyond RELATIVE_MARGIN.
    """
    assert BY_NAME[metric].better == "lower"
    ours, theirs = _table(subject, metric), _table(baseline, metric)
    enough = min(int(ours.counts.sum()), int(theirs.counts.sum())) >= required_n(share)
    if not enough or min(len(ours.round_of), len(theirs.round_of)) < MIN_BLOCKS:
        return _comparison(metric, share, subject, baseline, None, None, "insufficient data")
    drawn = resampled_counts(ours.round_of)
    same = np.array_equal(ours.round_of, theirs.round_of)
    drawn_of_theirs = drawn if same else resampled_counts(theirs.round_of)
    ratios = ours.quantiles(drawn, share) / theirs.quantiles(drawn_of_theirs, share)
    ratio = ours.quantile(share) / theirs.quantile(share)
    if not np.isfinite(ratio) or not np.isfinite(ratios).all():
        return _comparison(metric, share, subject, baseline, None, None, "insufficient data")
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(ratios, [tail, 1 - tail])
    interval = Interval(float(low), float(high))
    return _comparison(metric, share, subject, baseline, float(ratio), interval, verdict_of(interval))


def verdict_of(interval: Interval, margin: float = RELATIVE_MARGIN) -> Verdict:
    """What an interval of a ratio of latencies shows, beyond a relative margin."""
    if interval.high < 1 - margin:
        return "faster"
    if interval.low > 1 + margin:
        return "slower"
    return "no difference shown"


@dataclass(frozen=True, slots=True)
class _Table:
    """A metric's values in order, with the block each is in and how often it counts."""

    values: Floats
    counts: Ints
    block: Ints
    round_of: Ints

    def quantile(self, share: float) -> float:
        return quantile_of(self.values, np.cumsum(self.counts), share)

    def quantiles(self, drawn: Floats, share: float) -> Floats:
        """The quantile of each resample; `drawn` [resamples, blocks] counts how often each block is in it."""
        found = np.empty(len(drawn))
        for row, multiplicity in enumerate(drawn):
            cumulative = np.cumsum(multiplicity[self.block] * self.counts)
            found[row] = self.values[np.searchsorted(cumulative, share * cumulative[-1])]
        return found


def _table(samples: Samples, metric: str) -> _Table:
    values, request, weights = values_of(samples, metric)
    blocks = number_blocks(samples.round, samples.round)
    round_of = np.empty(int(blocks.max()) + 1, np.int64)
    round_of[blocks] = samples.round
    order = np.argsort(values, kind="stable")
    counts = np.ones(len(values), np.int64) if weights is None else weights
    return _Table(values[order], counts[order], blocks[request][order], round_of)


def _comparison(
    metric: str,
    share: float,
    subject: Samples,
    baseline: Samples,
    ratio: float | None,
    interval: Interval | None,
    verdict: Verdict,
) -> Comparison:
    return Comparison(metric, share, subject.engine, baseline.engine, ratio, interval, verdict)
