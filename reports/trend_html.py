"""Figures over the runs of a history, as one HTML file that needs no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmbench.reports import numbers
from llmbench.reports.figure import Figure
from llmbench.reports.html import page_assets, template, write_whole
from llmbench.reports.trend_figure import chance, commit_of, name_of, shown, trend_figure
from llmbench.results.change_points import ALPHA, MAX_RUNS, MIN_SEGMENT, ChangePoint
from llmbench.results.history import StoredRun, TrendPoint
from llmbench.results.trend import Series

Hardware = Mapping[str, Mapping[str, object]]


@dataclass(frozen=True, slots=True)
class Cell:
    """A figure of one run in the table; `change` is what happened there, in words, or empty."""

    text: str
    interval: str
    sort: str
    change: str
    kind: str


@dataclass(frozen=True, slots=True)
class Group:
    """The series of one hardware and question: `rows` are the runs, newest first, and a cell for each figure."""

    number: int
    fingerprint: str
    question: str
    hardware: Sequence[tuple[str, str]]
    figures: Sequence[Figure]
    titles: Sequence[tuple[str, str]]
    rows: Sequence[tuple[StoredRun, str, Sequence[Cell | None]]]


def write_trend_html(trends: Sequence[Series], path: Path, *, engine: str, level: str, hardware: Hardware) -> None:
    """Write the page to `path`, replacing it."""
    write_whole(path, trend_html(trends, engine=engine, level=level, hardware=hardware))


def trend_html(trends: Sequence[Series], *, engine: str, level: str, hardware: Hardware) -> str:
    """What changed and at which commit, in words; then each figure over its runs; then the same as a table.

    `hardware` says what is known of each fingerprint.
    """
    keys = list(dict.fromkeys(series.key for series in trends))
    groups = [
        _group(number, [series for series in trends if series.key == key], hardware.get(key[0], {}))
        for number, key in enumerate(keys, 1)
    ]
    dates = sorted(point.run.created_utc[:10] for series in trends for point in series.points)
    return template("trend.html").render(
        **page_assets(drawing=True),
        engine=engine,
        level=level,
        span=" to ".join(dict.fromkeys([dates[0], dates[-1]])),
        num_runs=len({point.run.run_id for series in trends for point in series.points}),
        said=[(key[0], *_said([series for series in trends if series.key == key])) for key in keys],
        groups=groups,
        least=MIN_SEGMENT,
        alpha=ALPHA,
        newest=MAX_RUNS if any(len(series.points) > MAX_RUNS for series in trends) else None,
    )


def _said(members: Sequence[Series]) -> tuple[list[str], str]:
    """One sentence for each run that a change begins with, the newest first; and one on what shows none."""
    changed: dict[str, list[tuple[Series, int]]] = {}
    for series in members:
        for index in series.changes:
            changed.setdefault(series.points[index].run.run_id, []).append((series, index))
    groups = sorted(changed.values(), key=lambda group: _run_of(group).created_utc, reverse=True)
    short = [series for series in members if not series.changes and len(series.points) < 2 * MIN_SEGMENT]
    steady = [series for series in members if not series.changes and len(series.points) >= 2 * MIN_SEGMENT]
    rest = [f"No change found in {_titles(steady)}."] if steady else []
    if short:
        most = max(len(series.points) for series in short)
        what = "" if len(short) == len(members) else f" for {_titles(short)}"
        runs = "run" if most == 1 else "runs"
        rest.append(f"Too few to tell{what}: {most} {runs}, and it takes {2 * MIN_SEGMENT}.")
    return [_sentence(group) for group in groups], " ".join(rest)


def _sentence(group: Sequence[tuple[Series, int]]) -> str:
    told = []
    for worse, word in ((True, "worse"), (False, "better")):
        named = [
            f"{series.spec.title} ({_percent(series.changes[index])})"
            for series, index in group
            if series.is_worse(series.changes[index]) == worse
        ]
        told += [f"{word} in {', '.join(named)}"] if named else []
    p = chance(max(series.changes[index].p for series, index in group))
    return f"From {name_of(_run_of(group))} on, {'; '.join(told)} ({p.replace('=', '≤') if len(group) > 1 else p})."


def _run_of(group: Sequence[tuple[Series, int]]) -> StoredRun:
    series, index = group[0]
    return series.points[index].run


def _percent(change: ChangePoint) -> str:
    return f"{100 * (change.ratio - 1):+.1f}{numbers.NO_BREAK}%".replace("-", "−")


def _titles(members: Sequence[Series]) -> str:
    return ", ".join(series.spec.title for series in members)


def _group(number: int, members: Sequence[Series], hardware: Mapping[str, object]) -> Group:
    found = {point.run.run_id: point.run for series in members for point in series.points}
    runs = sorted(found.values(), key=lambda run: run.created_utc)
    columns = [
        {point.run.run_id: _cell(series, index, point) for index, point in enumerate(series.points)}
        for series in members
    ]
    return Group(
        number=number,
        fingerprint=members[0].key[0],
        question=members[0].key[1][:8],
        hardware=[(name.replace("_", " "), _listed(value)) for name, value in hardware.items()],
        figures=[trend_figure(series, runs) for series in members],
        titles=[(series.spec.title, "" if series.spec.unit == "share" else series.spec.unit) for series in members],
        rows=[(run, commit_of(run), [column.get(run.run_id) for column in columns]) for run in reversed(runs)],
    )


def _cell(series: Series, index: int, point: TrendPoint) -> Cell:
    change, unit = series.changes.get(index), series.spec.unit
    value = shown(series, point.value)
    return Cell(
        text=value if unit == "share" else value.removesuffix(f" {unit}"),
        interval="" if unit == "share" else numbers.interval(series.interval(point)),
        sort=f"{point.value}",
        change="" if change is None else f"{_percent(change)}, {chance(change.p)}",
        kind="" if change is None else "slower" if series.is_worse(change) else "faster",
    )


def _listed(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
