"""Whether a constant load met an engine that could sustain it, or a queue that grew for as long as it was asked."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from llmbench.results.units import Floats

# Few and long, so that neighbouring ones depend little on each other.
NUM_BATCHES = 10
MIN_PER_BATCH = 5
MAX_P = 0.001
MIN_FACTOR = 2.0


class Growth(NamedTuple):
    """Mean waits in the first and the last fifth of a load, in the unit of the waits, and the chance of such a trend
    where there is none."""

    first: float
    last: float
    p: float


def growth(waits: Floats) -> Growth | None:
    """How `waits`, one per request in the order they were due, grew all through a load; None where they did not.

    The rule: the means of NUM_BATCHES batches of successive requests rise (Mann-Kendall test, one-sided, p below
    MAX_P), and the last fifth waits MIN_FACTOR times as long as the first. None too with fewer than MIN_PER_BATCH
    requests to a batch. Source: Mann 1945, Econometrica 13; batch means as in Law and Kelton 2000, section 9.5.
    """
    if len(waits) < NUM_BATCHES * MIN_PER_BATCH:
        return None
    from scipy.stats import kendalltau

    means = np.array([batch.mean() for batch in np.array_split(waits, NUM_BATCHES)])
    p = float(kendalltau(np.arange(NUM_BATCHES), means, alternative="greater").pvalue)
    first, last = float(means[:2].mean()), float(means[-2:].mean())
    return Growth(first, last, p) if p < MAX_P and last >= MIN_FACTOR * first else None
