"""Two figures side by side: how much one differs from the other, how sure that is, and the verdict.

Differences are of logarithms, so that a ratio and its inverse are treated alike. A verdict rejects "the true difference
is within the margin", not merely "it is zero": a sure but tiny difference is not worth one. Where several figures are
judged together, p-values are corrected by Holm's method, so that the chance of a single false verdict among all of them
stays below ALPHA.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from llmbench.results.figures import Figure, FigureSpec
from llmbench.results.statistics import Interval
from llmbench.results.units import CONFIDENCE, student_t, student_tail

Verdict = Literal["faster", "slower", "no difference shown", "insufficient data"]

ALPHA = 0.05
POWER = 0.8


@dataclass(frozen=True, slots=True)
class Margin:
    """A difference must exceed `relative` of the baseline and `absolute` in the metric's unit."""

    relative: float
    absolute: float

    def of(self, baseline: float) -> float:
        """The larger of the two as a share of `baseline`."""
        return max(self.relative, self.absolute / abs(baseline)) if baseline else self.relative


@dataclass(frozen=True, slots=True)
class Spread:
    """How much the logarithm of a figure differs between runs beyond what their rounds explain: a standard deviation,
    known with `freedom` degrees of freedom. `results/noise.py` measures it."""

    deviation: float
    freedom: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """`subject` against `baseline` by one figure at one load level.

    `ratio` is the subject's figure over the baseline's, `interval` its 95 % range; None where there is none, and then
    `reason` says why. `p` tests against the margin, `p_adjusted` is p after Holm's correction. `detectable` is the
    relative rise that this data would have shown with probability POWER; `detectable_ratio` says it as a ratio.
    `num_judged` tests were judged together. `across_rounds`: the interval covers how rounds differ; if not, only what
    happened within them.
    """

    spec: FigureSpec
    level: str
    subject: str
    baseline: str
    subject_figure: Figure | None
    baseline_figure: Figure | None
    margin: Margin
    verdict: Verdict
    ratio: float | None = None
    interval: Interval | None = None
    log_error: float | None = None
    freedom: float | None = None
    p: float | None = None
    p_adjusted: float | None = None
    detectable: float | None = None
    num_judged: int | None = None
    across_rounds: bool = False
    paired: bool = False
    reason: str | None = None

    @property
    def gain(self) -> float | None:
        """How many times better the subject is: below 1 is worse."""
        if self.ratio is None:
            return None
        return self.ratio if self.spec.better == "higher" else 1 / self.ratio

    @property
    def gain_interval(self) -> Interval | None:
        if self.interval is None or self.spec.better == "higher":
            return self.interval
        return Interval(1 / self.interval.high, 1 / self.interval.low)

    @property
    def leaning(self) -> Literal["faster", "slower"] | None:
        """What the figure would be called if it had been judged alone, where the others leave it without a verdict."""
        if self.verdict != "no difference shown" or self.p is None or self.p > 1 - CONFIDENCE or self.gain is None:
            return None
        return "faster" if self.gain > 1 else "slower"

    def detectable_ratio(self, rise: bool) -> float | None:
        """The ratio above 1, or below it unless `rise`, that this data would have shown with probability POWER."""
        if self.detectable is None:
            return None
        return 1 + self.detectable if rise else 1 / (1 + self.detectable)


def compare(
    spec: FigureSpec,
    level: str,
    subject: tuple[str, Figure | None],
    baseline: tuple[str, Figure | None],
    *,
    margin: Margin | None = None,
    paired: bool = False,
    spread: Spread | None = None,
) -> Comparison:
    """The comparison before `settle` has judged it; its verdict is `insufficient data` or provisional.

    `paired` says that rounds of the same number asked both the same, so that what a round did to both cancels. `spread`
    is what two runs differ by in any case, and widens the interval.
    """
    (label, ours), (other, theirs) = subject, baseline
    margin = margin or Margin(spec.relative, spec.absolute)
    blank = Comparison(spec, level, label, other, ours, theirs, margin, "insufficient data")
    missing = [name for name, figure in (subject, baseline) if figure is None]
    if ours is None or theirs is None:
        have = "have" if len(missing) == 2 else "has"
        return replace(blank, reason=f"{' and '.join(missing)} {have} no {spec.title}")
    blank = replace(blank, across_rounds=ours.across_rounds and theirs.across_rounds)
    one_sided = _one_is_hopeless(blank, ours, theirs)
    if one_sided is not None:
        return one_sided
    lacking = [f"{name} {figure.lacking}" for name, figure in ((label, ours), (other, theirs)) if figure.lacking]
    if ours.lacking is not None and ours.lacking == theirs.lacking:
        lacking = [ours.lacking]
    if lacking or ours.log_error is None or theirs.log_error is None:
        return replace(blank, reason="; ".join(lacking))
    # Not `value <= 0`: NaN compares as false with everything, and would come out as no difference.
    unsound = [name for name, figure in ((label, ours), (other, theirs)) if not 0 < figure.value < math.inf]
    if unsound:
        found = ours.value if unsound[0] == label else theirs.value
        return replace(blank, reason=f"{unsound[0]} has a figure of {found:g}, so there is no ratio")
    matching = ours.influence is not None and theirs.influence is not None and paired
    error, freedom = _combined(ours, theirs, matching)
    if spread is not None and spread.deviation > 0:
        error, freedom = welch((error, freedom), (math.sqrt(2) * spread.deviation, spread.freedom))
    effect = math.log(ours.value / theirs.value)
    reach = student_t((1 + CONFIDENCE) / 2, freedom) * error
    beyond = abs(effect) - math.log1p(margin.of(theirs.value))
    return replace(
        blank,
        verdict="no difference shown",
        ratio=math.exp(effect),
        interval=Interval(math.exp(effect - reach), math.exp(effect + reach)),
        log_error=error,
        freedom=freedom,
        p=_p_value(beyond, error, freedom),
        paired=matching,
    )


def settle(comparisons: Sequence[Comparison], alpha: float = ALPHA) -> list[Comparison]:
    """The same comparisons with Holm-corrected p-values and final verdicts, judged together as one family."""
    tested = sorted((each.p, place) for place, each in enumerate(comparisons) if each.p is not None)
    settled = list(comparisons)
    adjusted = 0.0
    for rank, (p, place) in enumerate(tested):
        comparison = comparisons[place]
        adjusted = min(1.0, max(adjusted, p * (len(tested) - rank)))
        settled[place] = replace(
            comparison,
            p_adjusted=adjusted,
            verdict=_verdict(comparison) if adjusted <= alpha else "no difference shown",
            detectable=_detectable(comparison, alpha / len(tested)),
            num_judged=len(tested),
        )
    return settled


def _one_is_hopeless(blank: Comparison, ours: Figure, theirs: Figure) -> Comparison | None:
    """The comparison where one side has no finite or no non-zero figure, as when its requests failed; else None."""
    worst = math.inf if blank.spec.better == "lower" else 0.0
    ours_lost, theirs_lost = ours.value == worst, theirs.value == worst
    if not (ours_lost or theirs_lost):
        return None
    if ours_lost and theirs_lost:
        some_failed = ours.num_failed or theirs.num_failed
        return replace(blank, reason="neither answered enough requests" if some_failed else "both have a figure of 0")
    lost, other = (ours, theirs) if ours_lost else (theirs, ours)
    name = blank.subject if ours_lost else blank.baseline
    reason = f"{lost.num_failed} of {lost.n} of {name} failed" if lost.num_failed else f"{name} has a figure of 0"
    # One failure more or less can turn a p99 into infinity; most of the requests failing cannot be chance.
    if 2 * lost.num_failed < lost.n and (blank.spec.better == "lower" or other.log_error is None):
        return replace(blank, reason=reason)
    return replace(blank, verdict="slower" if ours_lost else "faster", p=0.0, reason=reason)


def _combined(ours: Figure, theirs: Figure, paired: bool) -> tuple[float, float]:
    """Standard error of the difference of logarithms, and its degrees of freedom."""
    assert ours.log_error is not None
    assert theirs.log_error is not None
    if paired:
        assert ours.influence is not None
        assert theirs.influence is not None
        if len(ours.influence) == len(theirs.influence):
            return math.sqrt(float(((ours.influence - theirs.influence) ** 2).sum())), min(ours.freedom, theirs.freedom)
    return welch((ours.log_error, ours.freedom), (theirs.log_error, theirs.freedom))


def welch(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    """The error of the sum of two independent errors of unlike size, each with its degrees of freedom (Welch 1947)."""
    variances = one[0] ** 2, other[0] ** 2
    total = sum(variances)
    if total == 0:
        return 0.0, float(min(one[1], other[1]))
    return math.sqrt(total), total**2 / (variances[0] ** 2 / one[1] + variances[1] ** 2 / other[1])


def _p_value(beyond: float, error: float, freedom: float) -> float:
    if error == 0:
        return 0.0 if beyond > 0 else 1.0
    return min(1.0, 2 * student_tail(beyond / error, freedom))


def _verdict(comparison: Comparison) -> Verdict:
    if comparison.ratio is None:
        return comparison.verdict
    return "faster" if (comparison.ratio < 1) == (comparison.spec.better == "lower") else "slower"


def _detectable(comparison: Comparison, alpha: float) -> float | None:
    if comparison.log_error is None or comparison.freedom is None or comparison.baseline_figure is None:
        return None
    margin = math.log1p(comparison.margin.of(comparison.baseline_figure.value))
    t = student_t(1 - alpha / 2, comparison.freedom) + student_t(POWER, comparison.freedom)
    # Beyond any ratio that exp can hold, it is as good as not detectable.
    reach = margin + t * comparison.log_error
    return math.expm1(reach) if reach < 50 else None
