"""Distributions of a metric, and how sure they are.

Requests of one round share a queue, so they are not independent: intervals come from a bootstrap that draws whole
rounds (where there are at least MIN_ROUNDS) and, within each, whole blocks of neighbouring requests.
Source: Künsch 1989 (block bootstrap); Davison and Hinkley 1997, §3.8 (hierarchical data).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from llmbench.results.samples import Floats, Ints

QUANTILES = (0.5, 0.9, 0.95, 0.99)
CONFIDENCE = 0.95
NUM_RESAMPLES = 1000
MIN_ROUNDS = 4
MIN_BLOCKS = 8
# Quantiles of a resample are read from this many bins, each exact at its edges; the tails get as many as the middle.
_NUM_BINS = 2048


class Interval(NamedTuple):
    """A range that covers the true value with probability CONFIDENCE; `high` may be +inf where requests failed."""

    low: float
    high: float


class Quantile(NamedTuple):
    """`interval` is None where there are too few blocks to resample."""

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


def required_n(share: float) -> int:
    """How many samples it takes before the largest of them lies above the quantile with probability CONFIDENCE.

    20 times the share's complement, roughly: 5 for p50, 29 for p90, 59 for p95, 299 for p99. Source: Wilks 1941.
    """
    return math.ceil(math.log(1 - CONFIDENCE) / math.log(share))


def distribution(
    values: Floats, weights: Ints | None, blocks: Ints, rounds: Ints, *, intervals: bool = True
) -> Distribution | None:
    """The distribution of `values`, each counted `weights` times (once if None); None if there are no values.

    `blocks` numbers the block of neighbouring requests that each value belongs to, `rounds` its round; a block lies in
    one round. The same input gives the same intervals.
    """
    if not values.size:
        return None
    counts = np.ones(values.size, np.int64) if weights is None else weights
    finite = np.isfinite(values)
    n = int(counts.sum())
    num_finite = int(counts[finite].sum())
    mean = float(np.average(values[finite], weights=counts[finite])) if num_finite else None
    std = None
    if mean is not None and num_finite >= 2:
        std = math.sqrt(float((counts[finite] * (values[finite] - mean) ** 2).sum()) / (num_finite - 1))
    order = np.argsort(values, kind="stable")
    ordered, cumulative = values[order], np.cumsum(counts[order])
    shares = [share for share in QUANTILES if n >= required_n(share)]
    found = {share: quantile_of(ordered, cumulative, share) for share in shares}
    ranges = _intervals(values, counts, blocks, rounds, shares) if intervals else {}
    return Distribution(
        n=n,
        num_failed=n - num_finite,
        mean=mean,
        std=std,
        minimum=float(ordered[0]) if num_finite else None,
        maximum=float(ordered[-1]),
        quantiles={share: Quantile(found[share], ranges.get(share)) if share in found else None for share in QUANTILES},
    )


def quantile_of(ordered: Floats, cumulative: Ints, share: float) -> float:
    """The quantile at `share` of `ordered` values with cumulated counts, interpolated as numpy's default does (type 7
    of Hyndman and Fan 1996); +inf as soon as an infinite value takes part."""
    position = share * (int(cumulative[-1]) - 1)
    low = int(np.searchsorted(cumulative, math.floor(position), side="right"))
    high = int(np.searchsorted(cumulative, math.ceil(position), side="right"))
    below, above = float(ordered[low]), float(ordered[high])
    # Not `below + fraction * (above - below)`: inf - inf is nan.
    return below if below == above else below + (position - math.floor(position)) * (above - below)


def number_blocks(num_requests: Ints, rounds: Ints) -> Ints:
    """For each request, in due order, the number of its block: neighbours in a round, about n^(1/3) to a block.

    `num_requests` has one entry per request and only its length counts. n^(1/3) is the rate that minimises the error of
    a variance estimate (Künsch 1989); a block never spans two rounds.
    """
    blocks = np.empty(len(num_requests), np.int64)
    first = 0
    for number in np.unique(rounds):
        members = np.flatnonzero(rounds == number)
        length = max(1, round(len(members) ** (1 / 3)))
        inside = np.arange(len(members)) // length
        blocks[members] = first + inside
        first += int(inside[-1]) + 1
    return blocks


def _intervals(values: Floats, counts: Ints, blocks: Ints, rounds: Ints, shares: list[float]) -> dict[float, Interval]:
    names, block_of = np.unique(blocks, return_inverse=True)
    if len(names) < MIN_BLOCKS or not shares:
        return {}
    edges = _bin_edges(values, counts)
    bins = np.searchsorted(edges, values)
    table = np.zeros((len(names), len(edges)))
    np.add.at(table, (block_of, bins), counts)
    round_of = np.empty(len(names), np.int64)
    round_of[block_of] = rounds
    drawn = resampled_counts(round_of)
    resampled = np.cumsum(drawn @ table, axis=1)
    tail = (1 - CONFIDENCE) / 2
    found = {}
    for share in shares:
        reached = (resampled >= share * resampled[:, -1:]).argmax(axis=1)
        low, high = np.quantile(edges[reached], [tail, 1 - tail], method="inverted_cdf")
        found[share] = Interval(float(low), float(high))
    return found


def resampled_counts(round_of: Ints, num_resamples: int = NUM_RESAMPLES, seed: int = 0) -> Floats:
    """How often each block is drawn in each resample: [num_resamples, blocks]. `round_of` names each block's round."""
    generator = np.random.default_rng(seed)
    rounds = [np.flatnonzero(round_of == number) for number in np.unique(round_of)]
    drawn = np.zeros((num_resamples, len(round_of)))
    for row in drawn:
        chosen = rounds
        if len(rounds) >= MIN_ROUNDS:
            chosen = [rounds[index] for index in generator.integers(len(rounds), size=len(rounds))]
        for members in chosen:
            np.add.at(row, generator.choice(members, size=len(members)), 1)
    return drawn


def _bin_edges(values: Floats, counts: Ints) -> Floats:
    distinct = np.unique(values)
    if len(distinct) <= _NUM_BINS:
        return distinct
    tails = 10.0 ** -np.linspace(1, 6, _NUM_BINS // 4)
    shares = np.unique(np.concatenate([np.linspace(0, 1, _NUM_BINS // 2), tails, 1 - tails]))
    order = np.argsort(values)
    places = np.searchsorted(np.cumsum(counts[order]), shares * counts.sum())
    # The greatest value is an edge, so that every value has a bin.
    return np.unique(values[order][np.minimum(places, len(values) - 1)])
