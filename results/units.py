"""The independent parts of a measurement, and how far a figure that is summed from them may be off.

Requests of one round share a queue, so they are not independent: n requests tell less than n separate measurements
would. Whole rounds are. Where there are at least MIN_ROUNDS of them, a round is one unit, and whatever happens within
it (queues, bursts, a slow minute) is accounted for. With fewer, the units are long blocks of neighbouring requests
within each round, and how rounds differ from each other remains unknown.
Source: Cochran 1977, ch. 11 (cluster totals); Law and Kelton 2000, §9.5 (batch means).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

CONFIDENCE = 0.95
MIN_ROUNDS = 4
# Fewer, longer blocks cover better under autocorrelation, and cost a wider t; measured in docs/statistics.md.
NUM_BLOCKS = 10
MIN_FREEDOM = 3


@dataclass(frozen=True, eq=False)
class Units:
    """`of_request[i]` numbers the unit of request i; `stratum[u]` the group within which unit u is compared.

    `are_rounds` says that a unit is a round (one stratum holds them all), else a block (a stratum is a round).
    """

    of_request: Ints
    stratum: Ints
    are_rounds: bool

    def __len__(self) -> int:
        return len(self.stratum)

    @cached_property
    def freedom(self) -> int:
        """Degrees of freedom: units less strata."""
        return len(self.stratum) - len(np.unique(self.stratum))

    @cached_property
    def round_of_unit(self) -> Ints:
        """The round, counted from 0, that each unit is or is part of."""
        return np.arange(len(self.stratum)) if self.are_rounds else self.stratum

    def totals(self, amounts: Floats | Ints, request: Ints) -> Floats:
        """The sum of `amounts` in each unit; `request` is the index of the request each amount belongs to."""
        return np.bincount(self.of_request[request], amounts, len(self)).astype(np.float64)

    def centred(self, totals: Floats) -> Floats:
        """Deviations from the mean of the stratum, scaled so that their squares sum to the variance of the sum."""
        size = np.bincount(self.stratum)[self.stratum]
        mean = np.bincount(self.stratum, totals)[self.stratum] / size
        return (totals - mean) * np.sqrt(size / np.maximum(1, size - 1))


def units_of(rounds: Ints) -> Units:
    """The units of requests in due order, of which `rounds` gives the round."""
    names, of_request = np.unique(rounds, return_inverse=True)
    if len(names) >= MIN_ROUNDS:
        return Units(of_request.astype(np.int64), np.zeros(len(names), np.int64), are_rounds=True)
    blocks_per_round = max(2, round(NUM_BLOCKS / max(1, len(names))))
    units = np.empty(len(rounds), np.int64)
    stratum: list[int] = []
    for index in range(len(names)):
        members = np.flatnonzero(of_request == index)
        blocks = min(blocks_per_round, len(members))
        units[members] = len(stratum) + np.arange(len(members)) * blocks // len(members)
        stratum += [index] * blocks
    return Units(units, np.array(stratum, np.int64), are_rounds=False)


def student_t(share: float, freedom: float) -> float:
    """The quantile at `share` of Student's t distribution."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, share))


def student_tail(t: float, freedom: float) -> float:
    """The probability that Student's t exceeds `t`."""
    from scipy.special import stdtr

    return float(stdtr(freedom, -t))
