"""A request rate that changes over time, as straight lines: when has it brought how many requests?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Slope:
    """The rate goes from `start_rate` to `end_rate` (requests per second) in a straight line, in `duration_s`."""

    start_rate: float
    end_rate: float
    duration_s: float

    @property
    def count(self) -> float:
        """How many requests are expected from its beginning to its end."""
        return (self.start_rate + self.end_rate) / 2 * self.duration_s


def times_at(counts: NDArray[np.float64], slopes: Sequence[Slope]) -> NDArray[np.float64]:
    """When the expected count since 0 reaches each of `counts` (ascending, 0 or more), in s.

    After the last slope its end rate goes on, which must be above 0 where `counts` go beyond. A count that is reached
    just before a pause is placed before it.
    """
    import numpy as np

    seconds = np.zeros_like(counts)
    begin_s = begin_count = 0.0
    todo = np.ones(len(counts), dtype=bool)
    for slope in slopes:
        inside = todo & (counts <= begin_count + slope.count)
        seconds[inside] = begin_s + _times_within(counts[inside] - begin_count, slope)
        todo &= ~inside
        begin_s += slope.duration_s
        begin_count += slope.count
    if todo.any():
        seconds[todo] = begin_s + (counts[todo] - begin_count) / slopes[-1].end_rate
    return seconds


def _times_within(counts: NDArray[np.float64], slope: Slope) -> NDArray[np.float64]:
    import numpy as np

    per_s2 = (slope.end_rate - slope.start_rate) / slope.duration_s
    # The root of per_s2/2·t² + start·t − count = 0 in the form that stays exact when per_s2 is near zero. The divisor
    # is 0 only where rate and count are both 0; the time is 0 there.
    root = np.sqrt(np.maximum(slope.start_rate**2 + 2 * per_s2 * counts, 0.0))
    divisor = slope.start_rate + root
    seconds: NDArray[np.float64] = np.divide(2 * counts, divisor, out=np.zeros_like(counts), where=divisor > 0)
    return np.minimum(seconds, slope.duration_s)
