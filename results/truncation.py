"""Where a series has left its initial transient, by the rule MSER-5."""

from __future__ import annotations

import numpy as np

from llmbench.results.units import Floats

BATCH = 5
# Fewer batches, and the rule mostly follows chance.
MIN_BATCHES = 10


def mser5(values: Floats) -> int | None:
    """How many of the first `values` to leave out, a multiple of BATCH; None where the rule finds no answer.

    Of all truncations up to half of the batches, the one after which the squared standard error of the mean of what is
    left (batch means of five) is smallest. A minimum at that limit says that the series had not settled by its middle,
    and fewer than MIN_BATCHES batches say nothing. Values are finite, in the order in which they came; what is left
    over after the last whole batch takes no part.
    Source: White, Simulation 69 (1997) 323; in batches of five White, Cobb and Spratt, WSC 2000, 755.
    """
    num = len(values) // BATCH
    if num < MIN_BATCHES:
        return None
    means = values[: num * BATCH].reshape(num, BATCH).mean(axis=1)
    means = means - means.mean()
    # Sums over the batches from each one to the last.
    left = np.arange(num, 0, -1)
    sums, squares = (np.cumsum(each[::-1])[::-1] for each in (means, means**2))
    scores = (squares - sums**2 / left) / left**2
    limit = num // 2
    best = int(np.argmin(scores[: limit + 1]))
    return None if best == limit else best * BATCH
