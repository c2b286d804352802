"""Comparisons as rows of text, the same in a terminal, in Markdown and in JUnit."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from llmbench.reports.numbers import NOT_AVAILABLE, digits, percent
from llmbench.reports.plain_text import one_line
from llmbench.results.compare import Comparison, Verdict
from llmbench.results.figures import Figure, FigureSpec
from llmbench.results.units import MIN_ROUNDS

HEADERS = ("figure", "baseline", "measured", "change", "verdict")


@dataclass(frozen=True, slots=True)
class ComparisonRow:
    figure: str
    baseline: str
    measured: str
    change: str
    verdict: str


def row_of(comparison: Comparison) -> ComparisonRow:
    spec = comparison.spec
    return ComparisonRow(
        figure=spec.title,
        baseline=_value(spec, comparison.baseline_figure),
        measured=_value(spec, comparison.subject_figure),
        change=change(comparison),
        verdict=verdict(comparison),
    )


def change(comparison: Comparison) -> str:
    """`+12.3 % (+10.1 to +14.6)`, the 95 % interval in brackets; `n/a` where there is no ratio."""
    if comparison.ratio is None or comparison.interval is None:
        return NOT_AVAILABLE
    low, high = (_signed(bound) for bound in comparison.interval)
    return f"{_signed(comparison.ratio)} % ({low} to {high})"


def verdict(comparison: Comparison) -> str:
    """The verdict in words, with what it would have taken where there is none."""
    if comparison.verdict == "insufficient data":
        return f"insufficient data: {one_line(comparison.reason or 'too few samples')}"
    if lacks_rounds(comparison):
        return f"no verdict: needs {MIN_ROUNDS} rounds, has {_num_rounds(comparison)}"
    if comparison.leaning is not None:
        return f"likely {comparison.leaning}; {unsure((comparison,))}"
    words: str = comparison.verdict
    if comparison.ratio is None:
        return f"{words}: {one_line(comparison.reason)}" if comparison.reason else words
    shown = comparison.detectable_ratio(rise=comparison.ratio >= 1)
    if comparison.verdict == "no difference shown" and shown is not None:
        words += f" (would show {_signed(shown)} %)"
    return words


def kind(comparison: Comparison) -> Verdict:
    """Which verdict a row or a mark may look like: none where there are too few rounds for one."""
    return "insufficient data" if lacks_rounds(comparison) else comparison.verdict


def lacks_rounds(comparison: Comparison) -> bool:
    """Whether the interval is of what happened within a few rounds only: the next one may be unlike them all."""
    return comparison.ratio is not None and not comparison.across_rounds


def unsure(comparisons: Iterable[Comparison]) -> str:
    """What keeps a figure that is likely better or worse from a verdict."""
    num_judged = max(each.num_judged or 1 for each in comparisons)
    return f"not sure among {num_judged} figures"


def notes(comparisons: tuple[Comparison, ...], alpha: float) -> list[str]:
    """What a reader of the rows must know, in sentences."""
    tested = sum(each.p is not None for each in comparisons)
    judged = (
        f"{tested} tests were judged together (Holm), so that any false verdict among them has"
        if tested > 1
        else "a false one has"
    )
    said = [
        f"A verdict needs a change beyond its margin; {judged} a chance of at most {percent(alpha)}. Intervals are "
        "95 %, each for itself."
    ]
    if any(each.verdict == "no difference shown" for each in comparisons):
        said.append("“Would show”: the smallest change in the direction seen that this data shows 80 % of the time.")
    if any(each.leaning is not None for each in comparisons):
        said.append("“Likely”: beyond its margin, but among so many figures one may be so by chance.")
    if any(map(lacks_rounds, comparisons)):
        said.append(
            f"Below {MIN_ROUNDS} rounds, how rounds differ is not known: intervals are of those rounds only, and there "
            "is no verdict."
        )
    return said


def _value(spec: FigureSpec, figure: Figure | None) -> str:
    if figure is None:
        return NOT_AVAILABLE
    if spec.unit == "share":
        return percent(figure.value)
    return f"{digits(figure.value)} {spec.unit}"


def _signed(ratio: float) -> str:
    shown = f"{100 * (ratio - 1):+.1f}"
    return shown.replace("-", "−")


def _num_rounds(comparison: Comparison) -> int:
    """How many rounds the side has that has fewer."""
    figures = [figure for figure in (comparison.subject_figure, comparison.baseline_figure) if figure is not None]
    return min(figure.num_rounds for figure in figures)
