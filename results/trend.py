"""A figure over runs, apart for what cannot be compared, with the places where it changed for good."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmbench.results.change_points import ChangePoint, change_points
from llmbench.results.figures import FigureSpec
from llmbench.results.statistics import Interval

if TYPE_CHECKING:
    from llmbench.results.history import TrendPoint


@dataclass(frozen=True, slots=True)
class Series:
    """One figure of one engine on like hardware with the same question, the oldest run first.

    `changes` is keyed by the index of the first point that is otherwise.
    """

    spec: FigureSpec
    points: tuple[TrendPoint, ...]
    changes: Mapping[int, ChangePoint]

    @property
    def key(self) -> tuple[str, str]:
        """The fingerprint of the hardware and the digest of the question, which all points share."""
        return self.points[0].run.fingerprint, self.points[0].run.question

    def interval(self, point: TrendPoint) -> Interval | None:
        """The 95 % interval of a point; a share ends at 1."""
        found = point.interval
        if found is None or self.spec.unit != "share":
            return found
        return Interval(found.low, min(1.0, found.high))

    def is_worse(self, change: ChangePoint) -> bool:
        return (change.ratio > 1) == (self.spec.better == "lower")


def series_of(spec: FigureSpec, points: Sequence[TrendPoint]) -> list[Series]:
    """`points`, which are in order of time, as one series for each hardware and question, searched for changes."""
    groups: dict[tuple[str, str], list[TrendPoint]] = {}
    for point in points:
        groups.setdefault((point.run.fingerprint, point.run.question), []).append(point)
    return [
        Series(
            spec,
            tuple(members),
            {change.index: change for change in change_points([point.value for point in members])},
        )
        for members in groups.values()
    ]
