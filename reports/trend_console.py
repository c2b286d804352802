"""A figure over runs in a terminal, apart for what cannot be compared, with the changes marked."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from llmbench.reports.numbers import digits
from llmbench.reports.plain_text import one_line
from llmbench.results.change_points import MIN_SEGMENT, change_points
from llmbench.results.figures import FigureSpec
from llmbench.results.history import TrendPoint
from llmbench.results.units import student_t

_BAR = 20


def print_trend(spec: FigureSpec, points: Sequence[TrendPoint], console: Console) -> None:
    """Print one series for each hardware and question, the oldest run first."""
    series: dict[tuple[str, str], list[TrendPoint]] = {}
    for point in points:
        series.setdefault((point.run.fingerprint, point.run.question), []).append(point)
    for (fingerprint, question), members in series.items():
        console.print(Text(f"\n{spec.title}, hardware {fingerprint}, question {question[:8]}\n", style="bold"))
        _print_series(spec, members, console)


def _print_series(spec: FigureSpec, points: Sequence[TrendPoint], console: Console) -> None:
    changes = {change.index: change for change in change_points([point.value for point in points])}
    highest = max((point.value for point in points if math.isfinite(point.value)), default=0.0)
    for index, point in enumerate(points):
        if index in changes:
            percent = 100 * (changes[index].ratio - 1)
            worse = (percent > 0) == (spec.better == "lower")
            console.print(
                Text(f"  ── changed by {percent:+.1f} % (p = {changes[index].p:.2g}) ──"),
                style="red" if worse else "green",
            )
        error = "" if point.log_error is None else f"±{100 * student_t(0.975, 30) * point.log_error:.1f} %"
        share = point.value / highest if highest and math.isfinite(point.value) else 0.0
        commit = (point.run.git_commit or "")[:12]
        console.print(
            Text(
                f"{point.run.created_utc[:16]}  {one_line(commit):<12}  {digits(point.value):>8} {spec.unit} "
                f"{error:<8} {'▪' * round(_BAR * share)}"
            )
        )
    if len(points) < 2 * MIN_SEGMENT:
        console.print(Text(f"A change can be found from {2 * MIN_SEGMENT} runs on.", style="dim"))
