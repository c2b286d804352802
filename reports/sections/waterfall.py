"""The life of single requests: waiting, prefill, and a tick for every stamped read."""

from __future__ import annotations

from itertools import pairwise, zip_longest

import numpy as np

from llmbench.reports.figure import Axis, Figure, Trace, label, rounded
from llmbench.reports.material import Material
from llmbench.reports.numbers import count
from llmbench.reports.section import Section, View, figures_by_level
from llmbench.reports.window_bands import READING, bands
from llmbench.results.samples import Samples
from llmbench.results.series import WaterfallRow, waterfall

_MAX_REQUESTS = 40
_MAX_TICKS = 4000
_MAX_TICKS_IN_ALL = 16_000
_ROW_PX = 11
# The line of a request, and from when to when, in s.
Span = tuple[int, float | None, float | None]


def _view(material: Material) -> View | None:
    view = figures_by_level(
        material,
        "One line per request, in the order they were due. Grey: due but not yet sent. Pale: sent and waiting for the "
        "first token, the engine's queue and prefill. Each tick is one read that brought tokens: even ticks are a calm "
        "stream, gaps are stalls, and gaps at one time in many lines are requests disturbing each other.",
        lambda level: _figures(material, level),
        legend="legend_waterfall.html",
    )
    # Attempts of a request share its line.
    wholes = [samples.whole for samples in material.samples]
    return None if view is None else {**view, "is_retried": any(len(each.attempts) > len(each) for each in wholes)}


def _figures(material: Material, level: str) -> list[Figure]:
    found = [(samples, waterfall(samples, _MAX_REQUESTS)) for samples in material.samples_at(level)]
    ends_s = [row.end_s for _, rows in found for row in rows if row.end_s is not None]
    # One scale for all engines, so that their pictures can be laid beside each other.
    last_s = max(ends_s, default=1.0) * 1.02
    return [_figure(material, samples, rows, last_s) for samples, rows in found if rows]


def _figure(material: Material, samples: Samples, rows: list[WaterfallRow], last_s: float) -> Figure:
    colour = f"--c{material.colour(samples.engine)}"
    num_lines = rows[-1].line + 1
    num_ticks = sum(len(row.token_s) for row in rows)
    thin = max(1, -(-num_ticks // min(_MAX_TICKS, _MAX_TICKS_IN_ALL // len(material.samples))))
    last = [row for row, after in zip_longest(rows, rows[1:]) if after is None or after.line != row.line]
    failed = sum(row.status != "ok" for row in last)
    num_again = len(rows) - num_lines
    thinned = f" One tick in {thin} is drawn." if thin > 1 else ""
    shades = bands([samples.windows[rows[0].round]])
    return Figure(
        title=samples.engine,
        reading=f"The first {num_lines} of {count(len(samples.whole))} requests, round {rows[0].round + 1}."
        f"{f' {num_again} later attempts stand in the lines of their requests.' if num_again else ''}{thinned}"
        f"{READING if shades else ''}",
        alt=f"Timeline of {num_lines} requests to {samples.engine}, {failed} of them failed"
        f"{f', with {num_again} attempts to send one again' if num_again else ''}.",
        traces=[
            _bars("waiting to be sent again", "--wait", 0.3, _waits(rows)),
            _bars("waiting to be sent", "--wait", 0.9, [(row.line, row.due_s, row.sent_s) for row in rows]),
            _bars("queue and prefill", colour, 0.32, [(row.line, row.sent_s, _no_more_waiting_s(row)) for row in rows]),
            _bars("decoding", colour, 0.12, [(row.line, row.first_token_s, row.end_s) for row in rows]),
            _ticks(rows, colour, thin),
            _failures(rows),
        ],
        x=Axis("since the round's first request was due", "s", low=min(0.0, rows[0].due_s), high=last_s),
        y=Axis("requests", low=num_lines - 0.4, high=-0.6, hidden=True),
        height=70 + max(4, num_lines) * _ROW_PX,
        wide=True,
        shapes=shades,
    )


def _no_more_waiting_s(row: WaterfallRow) -> float | None:
    """When the first token came, or the attempt ended without one."""
    return row.end_s if row.first_token_s is None else row.first_token_s


def _waits(rows: list[WaterfallRow]) -> list[Span]:
    """From the end of each attempt to when the next of the same request was due."""
    return [(row.line, row.end_s, after.due_s) for row, after in pairwise(rows) if after.line == row.line]


def _bars(name: str, colour: str, opacity: float, spans: list[Span]) -> Trace:
    known = [(line, start, end) for line, start, end in spans if start is not None and end is not None]
    return {
        "type": "bar",
        "orientation": "h",
        "name": name,
        "y": [line for line, _, _ in known],
        "base": [round(start, 5) for _, start, _ in known],
        "x": [round(end - start, 5) for _, start, end in known],
        "width": 0.72,
        "marker": {"color": colour, "opacity": opacity, "line": {"width": 0}},
        "hovertemplate": f"{name} %{{x:.3f}} s<extra></extra>",
    }


def _ticks(rows: list[WaterfallRow], colour: str, thin: int) -> Trace:
    stamps = [row.token_s[::thin] for row in rows]
    lines = np.repeat([row.line for row in rows], [len(each) for each in stamps])
    # report.js makes one path of short strokes of it: a marker each would be thousands of elements.
    return {
        "type": "ticks",
        "name": "tokens",
        "x": rounded(np.concatenate(stamps), 6) if stamps else [],
        "y": lines.tolist(),
        "line": {"color": colour, "width": 1},
    }


def _failures(rows: list[WaterfallRow]) -> Trace:
    failed = [row for row in rows if row.status != "ok"]
    ends = [next(at for at in (row.end_s, row.sent_s, row.due_s) if at is not None) for row in failed]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "failed",
        "x": [round(end, 5) for end in ends],
        "y": [row.line for row in failed],
        "text": [label(row.request_id) for row in failed],
        "marker": {"color": "--bad", "symbol": "x-thin", "size": 8, "line": {"color": "--bad", "width": 2}},
        "hovertemplate": "failed: %{text}<extra></extra>",
    }


WATERFALL = Section("waterfall", "Request by request", "Waterfall", _view)
