"""How sure a share of requests is: an interval that knows that neighbours in a queue share their fate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# Fewer blocks say little about how much blocks differ.
MIN_BLOCKS = 8


class Share(NamedTuple):
    """`num_met` of `num_requests`, with the bounds of the interval. `dispersion` 1 is independent requests."""

    num_met: int
    num_requests: int
    dispersion: float
    low: float
    high: float


def share_met(trials: Sequence[Sequence[bool]], z: float) -> Share:
    """The share of requests that met their SLO, with a Wilson score interval of `z` standard normal deviations.

    Each trial is its requests in the order they were due, failed ones as False. Requests that wait in one queue are
    slow together, and a hundred of them can say as little as ten: the count is divided by their `dispersion`.
    Source: E. B. Wilson, JASA 22 (1927) 209.
    """
    num_met = sum(sum(trial) for trial in trials)
    num_requests = sum(len(trial) for trial in trials)
    if num_requests == 0:
        return Share(0, 0, 1.0, 0.0, 1.0)
    spread = dispersion(trials, z)
    share, count = num_met / num_requests, num_requests / spread
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return Share(num_met, num_requests, spread, max(0.0, centre - half), min(1.0, centre + half))


def dispersion(trials: Sequence[Sequence[bool]], z: float) -> float:
    """By how much the requests say less than independent ones would; 1 where that cannot be told, never below.

    The variance of the means of blocks over that of independent requests, larger where the blocks are few, by Student's
    t for `z` normal deviations. Blocks of several lengths are tried and the largest value counts, so that an interval
    is too wide rather than too narrow. Trials whose requests are all alike, or are runs longer than an eighth of them,
    tell nothing of runs; a second trial does.
    Source: batch means, Law and Kelton, Simulation Modeling and Analysis, ch. 9.
    """
    outcomes = [np.asarray(trial, dtype=np.float64) for trial in trials if len(trial)]
    share = float(np.concatenate(outcomes).mean()) if outcomes else 0.0
    if not 0 < share < 1:
        return 1.0
    largest, length = 1.0, 2
    while True:
        blocks = [outcome[: len(outcome) // length * length].reshape(-1, length).mean(axis=1) for outcome in outcomes]
        means = np.concatenate(blocks)
        if len(means) < MIN_BLOCKS:
            return largest
        factor = (_student_t(z, len(means) - 1) / z) ** 2
        largest = max(largest, factor * length * float(means.var(ddof=1)) / (share * (1 - share)))
        length *= 2


def _student_t(z: float, degrees: int) -> float:
    """The quantile of Student's t that a normal one stands for: Abramowitz and Stegun 26.7.5, first two terms."""
    return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
