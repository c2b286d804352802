"""What a rig's figures do when nothing changes, and how many rounds it takes to see a change through that."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from llmbench.results.compare import ALPHA, POWER, Margin, Spread, welch
from llmbench.results.errors import RunError
from llmbench.results.figures import FIGURE_BY_NAME, Figure, FigureSpec
from llmbench.results.matching import Side, match
from llmbench.results.units import MIN_ROUNDS, student_t

MAX_ROUNDS = 200
MIN_RUNS = 3
CAUTION = 0.8


@dataclass(frozen=True, slots=True)
class NoiseRow:
    """How one figure of one engine at one level varies while nothing changes. Spreads are relative (0.01 is 1 %).

    `between_rounds`: standard deviation from round to round. `between_runs`: what runs differ by beyond that, which no
    number of rounds takes away; None from a single run. `margin` is what a change must exceed. `rounds[effect]` is how
    many rounds on each side show a change of that size with probability POWER, at the upper end of the noise that these
    runs allow (one-sided, CAUTION); None where MAX_ROUNDS do not. `rounds_knowing_runs` is the same for a gate that is
    given these runs to know what runs differ by, as `--noise` does; None from fewer than MIN_RUNS.
    """

    spec: FigureSpec
    engine: str
    level: str
    value: float
    num_rounds: int
    num_runs: int
    margin: float
    between_rounds: float
    between_runs: float | None
    rounds: Mapping[float, int | None]
    rounds_knowing_runs: Mapping[float, int | None] | None


@dataclass(frozen=True, slots=True)
class NoiseFloor:
    """`lacking` names figures of which these runs say too little. `num_tests` is the family the rounds allow for."""

    rows: tuple[NoiseRow, ...]
    lacking: tuple[str, ...]
    effects: tuple[float, ...]
    num_tests: int
    alpha: float
    power: float

    def recommended(self, effect: float) -> Recommendation:
        """The rounds that show a change of `effect` wherever rounds can."""
        return self._recommended(effect, [row.rounds[effect] for row in self.rows])

    def recommended_knowing_runs(self, effect: float) -> Recommendation | None:
        """The same for a gate that is given these runs; None from fewer than MIN_RUNS."""
        known = [row.rounds_knowing_runs[effect] for row in self.rows if row.rounds_knowing_runs is not None]
        return self._recommended(effect, known) if known and len(known) == len(self.rows) else None

    def _recommended(self, effect: float, needed: Sequence[int | None]) -> Recommendation:
        beyond = [(row, rounds) for row, rounds in zip(self.rows, needed, strict=True) if row.margin < effect]
        return Recommendation(
            rounds=max((rounds for _, rounds in beyond if rounds is not None), default=None),
            too_noisy=_titles(row for row, rounds in beyond if rounds is None),
            within_margin=_titles(row for row in self.rows if row.margin >= effect),
        )


@dataclass(frozen=True, slots=True)
class Recommendation:
    """`rounds` on each side show a change in every figure but those of `too_noisy`, for which MAX_ROUNDS are too few,
    and of `within_margin`, of which a change of that size is none. None where no figure is left."""

    rounds: int | None
    too_noisy: tuple[str, ...]
    within_margin: tuple[str, ...]


def _titles(rows: Iterable[NoiseRow]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(row.spec.title for row in rows))


def noise_floor(
    runs: Sequence[Side],
    *,
    effects: Sequence[float] = (0.05, 0.1, 0.2),
    figures: Sequence[str] | None = None,
    alpha: float = ALPHA,
    power: float = POWER,
) -> NoiseFloor:
    """The noise of `runs`, which asked the same of the same on the same rig: one run of several rounds, or more runs.

    Raises RunError where two of them are not comparable.
    """
    first = runs[0]
    for other in runs[1:]:
        found = match(other, first)
        unlike = [*(flag.text for flag in found.flags if flag.fatal), *found.unmatched]
        if unlike:
            raise RunError(f"{other.name} is no repetition of {first.name}: {unlike[0]}")
    names = set(figures or FIGURE_BY_NAME)
    keys = [(each.engine, each.level, name) for each in first.measured for name in each.figures if name in names]
    rows: list[NoiseRow] = []
    lacking: list[str] = []
    for engine, level, name in keys:
        seen = [
            each.figures[name]
            for side in runs
            for each in side.measured
            if (each.engine, each.level) == (engine, level) and name in each.figures
        ]
        known = [figure for figure in seen if _usable(figure)]
        if not known:
            why = seen[0].lacking or f"needs {MIN_ROUNDS} rounds, has {seen[0].num_rounds}"
            lacking.append(f"{FIGURE_BY_NAME[name].title} of {engine} at {level} {why}.")
            continue
        rows.append(_row(FIGURE_BY_NAME[name], engine, level, known, tuple(effects), alpha / len(keys), power))
    return NoiseFloor(tuple(rows), tuple(lacking), tuple(effects), len(keys), alpha, power)


def run_spreads(runs: Sequence[Side], like: Side | None = None) -> dict[tuple[str, str, str], Spread]:
    """By engine, level and figure: what runs differ by while nothing changes, the engines named as `like` names them.

    Takes at least MIN_RUNS runs; raises RunError for fewer, where two of them are not comparable, and where they asked
    something else or on another machine than `like`: such noise would excuse what it does not explain.
    """
    if len(runs) < MIN_RUNS:
        raise RunError(f"What runs differ by takes {MIN_RUNS} runs or more to know; there are {len(runs)}.")
    rows = noise_floor(runs).rows
    names = {each.engine: each.engine for each in runs[0].measured}
    if like is not None:
        # Whether `like` itself may be used is not the question here.
        sound = replace(like, identity=replace(like.identity, invalid=(), finished=True))
        found = match(runs[0], sound)
        unlike = [flag.text for flag in found.flags if flag.fatal] or ([] if found.pairs else list(found.unmatched))
        if unlike:
            raise RunError(f"{runs[0].name} does not show what {like.name} would do anyway: {unlike[0]}")
        names |= {here.engine: there.engine for here, there in found.pairs}
    return {
        (names[row.engine], row.level, row.spec.name): Spread(row.between_runs, row.num_runs - 1)
        for row in rows
        if row.between_runs is not None
    }


def rounds_needed(
    effect: float,
    margin: float,
    between_rounds: float,
    between_runs: float,
    alpha: float,
    power: float,
    *,
    runs_freedom: int | None = None,
) -> int | None:
    """Rounds on each side that show a relative change of `effect` beyond `margin` with probability `power`, in a test
    at level `alpha`; at least MIN_ROUNDS, None if MAX_ROUNDS are too few or the effect is within the margin.

    With `runs_freedom`, of a test that allows for `between_runs` as known with so many degrees of freedom.
    """
    room = math.log1p(effect) - math.log1p(margin)
    if room <= 0:
        return None
    for rounds in range(MIN_ROUNDS, MAX_ROUNDS + 1):
        of_rounds, of_runs = math.sqrt(2 / rounds) * between_rounds, math.sqrt(2) * between_runs
        error, freedom = math.hypot(of_rounds, of_runs), float(rounds - 1)
        if runs_freedom is not None:
            error, freedom = welch((of_rounds, freedom), (of_runs, runs_freedom))
        if (student_t(1 - alpha / 2, freedom) + student_t(power, freedom)) * error <= room:
            return rounds
    return None


def _usable(figure: Figure) -> bool:
    return figure.log_error is not None and figure.across_rounds and 0 < figure.value < math.inf


def _round_variance(figures: list[Figure]) -> tuple[float, float]:
    """The variance of the logarithm from round to round, with its degrees of freedom; from several runs, without what
    the prompts of a round do to it."""
    pairs = [
        (one.influence, other.influence)
        for one, other in pairwise(figures)
        if one.influence is not None and other.influence is not None and len(one.influence) == len(other.influence)
    ]
    # A figure's error is of its mean over rounds: from round to round it is sqrt(rounds) times as large.
    if pairs:
        found = [len(one) * ((one - other) ** 2).sum() / 2 for one, other in pairs]
        return float(np.mean(found)), sum(len(one) - 1 for one, _ in pairs)
    variances = [(figure.log_error or 0.0) ** 2 * figure.num_rounds for figure in figures]
    weights = [figure.freedom for figure in figures]
    return float(np.average(variances, weights=weights)), sum(weights)


def _row(
    spec: FigureSpec,
    engine: str,
    level: str,
    figures: list[Figure],
    effects: tuple[float, ...],
    alpha: float,
    power: float,
) -> NoiseRow:
    from scipy.special import chdtri

    variance, freedom = _round_variance(figures)
    between_rounds = math.sqrt(variance)
    # The noise floor is itself known from few rounds: rounds for what it may well be, not for the estimate.
    cautious = between_rounds * math.sqrt(freedom / float(chdtri(freedom, CAUTION)))
    between_runs = None
    if len(figures) >= 2:
        observed = float(np.var([math.log(figure.value) for figure in figures], ddof=1))
        explained = between_rounds**2 * float(np.mean([1 / figure.num_rounds for figure in figures]))
        between_runs = math.sqrt(max(0.0, observed - explained))
    value = float(np.median([figure.value for figure in figures]))
    margin = Margin(spec.relative, spec.absolute).of(value)

    def needed(effect: float, runs_freedom: int | None) -> int | None:
        return rounds_needed(effect, margin, cautious, between_runs or 0.0, alpha, power, runs_freedom=runs_freedom)

    return NoiseRow(
        spec=spec,
        engine=engine,
        level=level,
        value=value,
        num_rounds=sum(figure.num_rounds for figure in figures),
        num_runs=len(figures),
        margin=margin,
        between_rounds=between_rounds,
        between_runs=between_runs,
        rounds={effect: needed(effect, None) for effect in effects},
        rounds_knowing_runs=None
        if len(figures) < MIN_RUNS
        else {effect: needed(effect, len(figures) - 1) for effect in effects},
    )
