"""A figure over runs in a terminal, apart for what cannot be compared, with the changes marked."""

from __future__ import annotations

import math
from collections.abc import Iterable

from rich.console import Console
from rich.text import Text

from llmbench.reports.numbers import digits
from llmbench.reports.plain_text import one_line
from llmbench.results.change_points import MIN_SEGMENT
from llmbench.results.trend import Series

_BAR = 20


def print_trend(trends: Iterable[Series], console: Console) -> None:
    """Print each series, the oldest run first."""
    for series in trends:
        fingerprint, question = series.key
        title = f"\n{series.spec.title}, hardware {fingerprint}, question {question[:8]}\n"
        console.print(Text(title, style="bold"))
        _print_series(series, console)


def _print_series(series: Series, console: Console) -> None:
    spec, points = series.spec, series.points
    highest = max((point.value for point in points if math.isfinite(point.value)), default=0.0)
    for index, point in enumerate(points):
        if change := series.changes.get(index):
            console.print(
                Text(f"  ── changed by {100 * (change.ratio - 1):+.1f} % (p = {change.p:.2g}) ──"),
                style="red" if series.is_worse(change) else "green",
            )
        interval = series.interval(point)
        error = "" if interval is None else f"±{100 * (interval.high / point.value - 1):.1f} %"
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
