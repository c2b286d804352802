"""Comparisons as rows of text, the same in a terminal, in Markdown and in JUnit."""

from __future__ import annotations

from dataclasses import dataclass

from llmbench.reports.numbers import NOT_AVAILABLE, digits, percent
from llmbench.reports.plain_text import one_line
from llmbench.results.compare import Comparison
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
    words: str = comparison.verdict
    if comparison.verdict == "no difference shown" and comparison.detectable is not None:
        words += f" (would show {_plain(comparison.detectable)} %)"
    elif comparison.ratio is None and comparison.reason:
        words += f": {one_line(comparison.reason)}"
    if not comparison.across_rounds and comparison.ratio is not None:
        words += f", within {_rounds(comparison)}"
    return words


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
        said.append("“Would show”: the smallest change that this data shows 80 % of the time.")
    if any(each.ratio is not None and not each.across_rounds for each in comparisons):
        said.append(
            f"Below {MIN_ROUNDS} rounds, how rounds differ is not known: such a verdict is of those rounds only."
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


def _plain(share: float) -> str:
    return digits(100 * share)


def _rounds(comparison: Comparison) -> str:
    figures = [figure for figure in (comparison.subject_figure, comparison.baseline_figure) if figure is not None]
    fewest = min(figure.num_rounds for figure in figures)
    return "one round" if fewest == 1 else f"{fewest} rounds"
