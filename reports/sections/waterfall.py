"""The life of single requests: waiting, prefill, and a tick for every stamped read."""

from __future__ import annotations

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


def _view(material: Material) -> View | None:
    return figures_by_level(
        material,
        "One line per request, in the order they were due. Grey: due but not yet sent. Pale: sent and waiting for the "
        "first token, the engine's queue and prefill. Each tick is one read that brought tokens: even ticks are a calm "
        "stream, gaps are stalls, and gaps at one time in many lines are requests disturbing each other.",
        lambda level: _figures(material, level),
        legend="legend_waterfall.html",
    )


def _figures(material: Material, level: str) -> list[Figure]:
    found = [(samples, waterfall(samples, _MAX_REQUESTS)) for samples in material.samples_at(level)]
    ends_s = [row.end_s for _, rows in found for row in rows if row.end_s is not None]
    # One scale for all engines, so that their pictures can be laid beside each other.
    last_s = max(ends_s, default=1.0) * 1.02
    return [_figure(material, samples, rows, last_s) for samples, rows in found if rows]


def _figure(material: Material, samples: Samples, rows: list[WaterfallRow], last_s: float) -> Figure:
    colour = f"--c{material.colour(samples.engine)}"
    num_ticks = sum(len(row.token_s) for row in rows)
    thin = max(1, -(-num_ticks // min(_MAX_TICKS, _MAX_TICKS_IN_ALL // len(material.samples))))
    failed = sum(row.status != "ok" for row in rows)
    thinned = f" One tick in {thin} is drawn." if thin > 1 else ""
    shades = bands([samples.windows[rows[0].round]])
    return Figure(
        title=samples.engine,
        reading=f"The first {len(rows)} of {count(len(samples.whole))} requests, round {rows[0].round + 1}.{thinned}"
        f"{READING if shades else ''}",
        alt=f"Timeline of {len(rows)} requests to {samples.engine}, {failed} of them failed.",
        traces=[
            _bars("waiting to be sent", "--wait", 0.9, [(row.due_s, row.sent_s) for row in rows]),
            _bars("queue and prefill", colour, 0.32, [(row.sent_s, row.first_token_s) for row in rows]),
            _bars("decoding", colour, 0.12, [(row.first_token_s, row.end_s) for row in rows]),
            _ticks(rows, colour, thin),
            _failures(rows),
        ],
        x=Axis("since the round's first request was due", "s", low=min(0.0, rows[0].due_s), high=last_s),
        y=Axis("requests", low=len(rows) - 0.4, high=-0.6, hidden=True),
        height=70 + max(4, len(rows)) * _ROW_PX,
        wide=True,
        shapes=shades,
    )


def _bars(name: str, colour: str, opacity: float, spans: list[tuple[float | None, float | None]]) -> Trace:
    known = [(place, start, end) for place, (start, end) in enumerate(spans) if start is not None and end is not None]
    return {
        "type": "bar",
        "orientation": "h",
        "name": name,
        "y": [place for place, _, _ in known],
        "base": [round(start, 5) for _, start, _ in known],
        "x": [round(end - start, 5) for _, start, end in known],
        "width": 0.72,
        "marker": {"color": colour, "opacity": opacity, "line": {"width": 0}},
        "hovertemplate": f"{name} %{{x:.3f}} s<extra></extra>",
    }


def _ticks(rows: list[WaterfallRow], colour: str, thin: int) -> Trace:
    stamps = [row.token_s[::thin] for row in rows]
    places = np.repeat(np.arange(len(rows)), [len(each) for each in stamps])
    # report.js makes one path of short strokes of it: a marker each would be thousands of elements.
    return {
        "type": "ticks",
        "name": "tokens",
        "x": rounded(np.concatenate(stamps), 6) if stamps else [],
        "y": places.tolist(),
        "line": {"color": colour, "width": 1},
    }


def _failures(rows: list[WaterfallRow]) -> Trace:
    failed = [(place, row) for place, row in enumerate(rows) if row.status != "ok"]
    ends = [next(at for at in (row.end_s, row.sent_s, row.due_s) if at is not None) for _, row in failed]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "failed",
        "x": [round(end, 5) for end in ends],
        "y": [place for place, _ in failed],
        "text": [label(row.request_id) for _, row in failed],
        "marker": {"color": "--bad", "symbol": "x-thin", "size": 8, "line": {"color": "--bad", "width": 2}},
        "hovertemplate": "failed: %{text}<extra></extra>",
    }


WATERFALL = Section("waterfall", "Request by request", "Waterfall", _view)
