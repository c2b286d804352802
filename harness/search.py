"""The highest load that meets a service level objective, found by bracketing and bisection over noisy trials.

Pure: it says which load to try next, is told how the trial went, and says what it knows. A load counts as met or missed
only when the interval of its share of good requests lies wholly on one side of the objective; until then it is tried
again. The error allowed is shared among all trials the search may make (Bonferroni), so the final statement holds at
its stated confidence however often it looked. It rests on one assumption: a higher load meets the objective no better.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from statistics import NormalDist

from llmbench.harness.attainment import Share, share_met

# How far bracketing goes with one step.
STEP = 2.0


class Verdict(StrEnum):
    """What is known of one load."""

    MET = "met"
    MISSED = "missed"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class SearchGoal:
    """What is looked for, and how long.

    A load is good when at least `attainment` of its requests meet their SLO, 0 < attainment < 1. Loads lie between
    `lowest` and `highest`; `whole` allows whole numbers alone, as for a concurrency. The search ends when the bounds
    are within `tolerance` of each other, relative to the lower one, or after `max_trials` trials. No load is decided by
    fewer than `min_repeats` trials, as one may be a single stroke of luck; after `max_repeats` it is left undecided.
    """

    attainment: float
    start: float
    lowest: float
    highest: float
    whole: bool = False
    tolerance: float = 0.05
    confidence: float = 0.95
    max_trials: int = 40
    min_repeats: int = 2
    max_repeats: int = 5

    def __post_init__(self) -> None:
        assert 0 < self.attainment < 1
        assert 0 < self.lowest <= self.start <= self.highest < math.inf
        assert not self.whole or all(load == int(load) for load in (self.lowest, self.start, self.highest))
        assert self.tolerance > 0
        assert 0 < self.confidence < 1
        assert self.max_trials >= 1
        assert 1 <= self.min_repeats <= self.max_repeats

    @property
    def z(self) -> float:
        """Standard normal deviations of one look, such that all looks together err within `1 - confidence`."""
        return NormalDist().inv_cdf(1 - (1 - self.confidence) / self.max_trials)

    @property
    def requests_to_decide(self) -> int:
        """The least number of requests at one load, all of them good and all trials taken together, that can decide."""
        return math.ceil(self.z**2 * self.attainment / (1 - self.attainment))


@dataclass(frozen=True, slots=True)
class TriedLoad:
    """One load with all trials at it."""

    load: float
    num_trials: int
    share: Share
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What the search knows: `met` is the highest load shown to be good, `missed` the lowest shown not to be."""

    goal: SearchGoal
    tried: tuple[TriedLoad, ...]
    met: float | None
    missed: float | None

    @property
    def num_trials(self) -> int:
        return sum(level.num_trials for level in self.tried)

    @property
    def undecided(self) -> tuple[float, ...]:
        """Loads between the bounds of which nothing could be shown."""
        low, high = self.met or 0.0, math.inf if self.missed is None else self.missed
        return tuple(
            level.load for level in self.tried if level.verdict is Verdict.UNDECIDED and low < level.load < high
        )

    def sentence(self, unit: str) -> str:
        """The result for people; `unit` stands behind loads, such as ` requests/s`."""
        goal = self.goal
        objective = f"{goal.attainment:.4g} of requests within the SLO"
        sure = f"at {goal.confidence:.4g} confidence, from {self.num_trials} trials at {len(self.tried)} loads"
        if self.met is not None and self.missed is not None:
            said = f"The highest load with {objective} is between {self.met:g} and {self.missed:g}{unit}, {sure}."
        elif self.met is not None:
            said = f"{self.met:g}{unit} still has {objective}, {sure}; no load was shown to have less."
        elif self.missed is not None:
            said = f"{self.missed:g}{unit} already has less than {objective}, {sure}; no load was shown to have it."
        else:
            said = f"No load was shown to have or not to have {objective}, {sure}."
        if self.undecided:
            loads = ", ".join(f"{load:g}" for load in self.undecided)
            said += f" Too close to tell: {loads}{unit}."
        return said


@dataclass
class LoadSearch:
    """One search under way: `next_load`, a trial at it, `observe`, until `next_load` is None."""

    goal: SearchGoal
    _outcomes: dict[float, list[tuple[bool, ...]]] = field(default_factory=dict)
    _tried: dict[float, TriedLoad] = field(default_factory=dict)

    def next_load(self) -> float | None:
        """The load to try next; None when the search has ended."""
        if self._num_trials() >= self.goal.max_trials:
            return None
        for level in self._tried.values():
            if level.verdict is Verdict.UNDECIDED and level.num_trials < self.goal.max_repeats:
                return level.load
        if not self._tried:
            return self.goal.start
        if self._missed() is None and max(self._tried) < self.goal.highest:
            return min(max(self._tried) * STEP, self.goal.highest)
        if self._met() is None and min(self._tried) > self.goal.lowest:
            lower = min(self._tried) / STEP
            return max(float(math.floor(lower)) if self.goal.whole else lower, self.goal.lowest)
        return self._between()

    def observe(self, load: float, outcomes: Sequence[bool]) -> None:
        """One trial at `load`: whether each request met the SLO, in the order they were due; failed ones did not."""
        trials = self._outcomes.setdefault(load, [])
        trials.append(tuple(outcomes))
        share = share_met(trials, self.goal.z)
        verdict = Verdict.UNDECIDED
        if len(trials) < self.goal.min_repeats:
            pass
        elif share.low >= self.goal.attainment:
            verdict = Verdict.MET
        elif share.high < self.goal.attainment:
            verdict = Verdict.MISSED
        self._tried[load] = TriedLoad(load, len(trials), share, verdict)

    def result(self) -> SearchResult:
        """What is known so far; valid at any time."""
        tried = tuple(self._tried[load] for load in sorted(self._tried))
        return SearchResult(self.goal, tried, self._met(), self._missed())

    def _between(self) -> float | None:
        """The middle of the widest gap between the bounds, undecided loads being bounds of gaps too."""
        low, high = self._met(), self._missed()
        edges = sorted(
            level.load
            for level in self._tried.values()
            if (low is None or level.load >= low) and (high is None or level.load <= high)
        )
        gaps = [(upper / lower, lower, upper) for lower, upper in pairwise(edges)]
        if self.goal.whole:
            gaps = [gap for gap in gaps if gap[2] - gap[1] >= 2]
        ratio, lower, upper = max(gaps, default=(1.0, 0.0, 0.0))
        if ratio <= 1 + self.goal.tolerance:
            return None
        # Rates matter by their ratio: the geometric middle.
        middle = math.sqrt(lower * upper)
        return float(min(max(round(middle), lower + 1), upper - 1)) if self.goal.whole else middle

    def _num_trials(self) -> int:
        return sum(level.num_trials for level in self._tried.values())

    def _met(self) -> float | None:
        return max((level.load for level in self._tried.values() if level.verdict is Verdict.MET), default=None)

    def _missed(self) -> float | None:
        return min((level.load for level in self._tried.values() if level.verdict is Verdict.MISSED), default=None)
