"""How much came out of each engine, over time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from llmbench.reports.figure import Axis, Figure, line
from llmbench.reports.material import Material
from llmbench.reports.numbers import digits
from llmbench.reports.section import Section, View, figures_by_level
from llmbench.reports.window_bands import READING, bands
from llmbench.results.samples import Floats, Samples
from llmbench.results.series import Throughput, throughput

_Rate = Callable[[Throughput], Floats]


def _view(material: Material) -> View | None:
    return figures_by_level(
        material,
        "Rates in short intervals, averaged over rounds. A plateau is what an engine sustains; a long decline at the "
        "end is the last requests running alone, and a dip in the middle is a stall.",
        lambda level: _figures(material, level),
    )


def _figures(material: Material, level: str) -> list[Figure]:
    found = [
        (samples.engine, series)
        for samples in material.samples_at(level)
        if (series := throughput(samples, _num_bins(samples)))
    ]
    if not found:
        return []
    shades = bands(window for samples in material.samples_at(level) for window in samples.windows.values())
    return [
        replace(figure, reading=figure.reading + READING if shades else figure.reading, shapes=shades)
        for figure in (
            _figure(material, found, "Output tokens per second", "tokens/s", lambda series: series.tokens_per_s),
            _figure(material, found, "Requests answered per second", "requests/s", lambda each: each.requests_per_s),
        )
    ]


def _figure(material: Material, found: list[tuple[str, Throughput]], title: str, unit: str, of: _Rate) -> Figure:
    peaks = "; ".join(f"{engine} peaks at {digits(float(of(series).max()))}" for engine, series in found)
    return Figure(
        title=title,
        reading=f"Bins of {' and '.join(sorted({digits(series.bin_s) for _, series in found}))} s.",
        alt=f"{title} over time: {peaks} {unit}.",
        traces=[
            line(engine, material.colour(engine), series.t_s, of(series), hover=f"%{{y:.4~g}} {unit} at %{{x:.2f}} s")
            for engine, series in found
        ],
        x=Axis("since the round's first request was due", "s"),
        y=Axis(unit),
    )


def _num_bins(samples: Samples) -> int:
    # Four requests to a bin on average: narrower ones would show their arrival, not the engine.
    per_round = len(samples.whole) / max(1, samples.num_rounds)
    return int(min(100, max(10, per_round / 4)))


THROUGHPUT = Section("throughput", "Throughput over time", "Throughput", _view)
