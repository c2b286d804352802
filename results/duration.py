"""How long was measured."""

from __future__ import annotations

from functools import lru_cache

from llmbench.results.samples import Samples

NS_PER_MS = 1e6
NS_PER_S = 1e9


@lru_cache(maxsize=16)
def round_seconds(samples: Samples) -> dict[int, float]:
    """For each round, the seconds of its window, by default from its first due request to its last answer; 0 where no
    answer ended."""
    return {number: window.seconds for number, window in samples.windows.items()}


def duration_s(samples: Samples) -> float | None:
    """Seconds of the windows of all rounds together; None before any answer ended."""
    return sum(round_seconds(samples).values()) or None
