"""What each engine, its processes and its devices said of themselves, on the time axis of the requests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from llmbench.reports.figure import Axis, Figure, line
from llmbench.reports.material import Material
from llmbench.reports.numbers import digits, percent
from llmbench.reports.section import Section, View, figures_by_level
from llmbench.reports.server_side_rows import quantity_rows, unread
from llmbench.results.server_side import ServerSide, bin_edges, server_side
from llmbench.results.units import Floats

_GIB = 2.0**30
_SMALL_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class Picture:
    """One quantity over time. `values` gives it in the bins between edges, None where it was never read."""

    title: str
    unit: str
    reading: str
    values: Callable[[ServerSide, Floats], Floats | None]
    is_share: bool = False


def _gauge(metric: str, scale: float = 1.0) -> Callable[[ServerSide, Floats], Floats | None]:
    def values(side: ServerSide, edges: Floats) -> Floats | None:
        found = side.mean(metric, edges)
        return None if found is None else found * scale

    return values


def _share(metric: str) -> Callable[[ServerSide, Floats], Floats | None]:
    return lambda side, edges: side.mean(metric, edges, share=True)


def _rate(metric: str) -> Callable[[ServerSide, Floats], Floats | None]:
    return lambda side, edges: side.rate(metric, edges)


def _ratio(part: str, whole: str) -> Callable[[ServerSide, Floats], Floats | None]:
    return lambda side, edges: side.share(part, whole, edges)


_PICTURES: tuple[Picture, ...] = (
    Picture("Requests in the batch", "requests", "More at a time means more tokens per second and a slower one each.",
            _gauge("requests_running")),
    Picture("Requests queued", "requests", "A queue that grows all through is a load the engine does not sustain.",
            _gauge("requests_waiting")),
    Picture("KV cache in use", "", "Near 100 % requests wait, or are put back.", _share("kv_cache_usage"), True),
    Picture("Found in the prefix cache", "", "Share of the prompt tokens taken in that were computed before.",
            _ratio("prefix_cache_hits", "prefix_cache_queries"), True),
    Picture("Preemptions", "requests/s", "Requests put back for want of KV cache; each is computed again.",
            _rate("preemptions")),
    Picture("Drafts accepted", "", "Share of the drafted tokens that the model agreed with.",
            _ratio("accepted_tokens", "draft_tokens"), True),
    Picture("Processor cores busy", "cores", "CPU time of the engine's processes per second.", _rate("cpu_seconds")),
    Picture("Resident memory", "GiB", "Of all its processes; pages that they share count in each.",
            _gauge("rss", 1 / _GIB)),
    Picture("GPU power", "W", "Of all GPUs the engine may use.", _gauge("power")),
    Picture("GPU utilisation", "", "Share of the time in which any kernel ran.", _share("utilisation"), True),
    Picture("GPU memory", "GiB", "In use on all GPUs the engine may use.", _gauge("memory_used", 1 / _GIB)),
    Picture("Processor power", "W", "Of the processor packages, whoever used them.", _rate("cpu_energy")),
)  # fmt: skip


def _view(material: Material) -> View | None:
    if not material.samples:
        return None
    drawn = figures_by_level(
        material,
        "What the engines' own metrics, their processes and the devices said, second by second and averaged over "
        "rounds, on the time axis of “Throughput over time”: a latency that rises is a full queue, a full KV cache, or "
        "neither, and then the cause is elsewhere.",
        lambda level: _figures(material, level),
    )
    return {"drawn": drawn, "rows": quantity_rows(material.samples), "unread": list(unread(material.samples))}


def _figures(material: Material, level: str) -> list[Figure]:
    members = material.samples_at(level)
    edges = bin_edges(members)
    sides = [server_side(samples) for samples in members]
    figures = []
    for picture in _PICTURES:
        found = [(side.samples.engine, values) for side in sides if (values := picture.values(side, edges)) is not None]
        # What was zero throughout is said by the table.
        if any(np.nan_to_num(values).any() for _, values in found):
            figures.append(_figure(material, picture, found, edges))
    return figures


def _figure(material: Material, picture: Picture, found: list[tuple[str, Floats]], edges: Floats) -> Figure:
    middle_s = (edges[:-1] + edges[1:]) / 2
    wording = percent if picture.is_share else digits
    peaks = "; ".join(f"{engine} at most {wording(float(np.nanmax(values)))}" for engine, values in found)
    # From 0 to 100 % where that shows the curve; a cache that is 2 % full would lie on the axis.
    is_whole = picture.is_share and max(float(np.nanmax(values)) for _, values in found) > _SMALL_SHARE
    scale = " The scale does not reach 100 %." if picture.is_share and not is_whole else ""
    value = "%{y:.3~%}" if picture.is_share else f"%{{y:.4~g}} {picture.unit}"
    return Figure(
        title=picture.title,
        reading=f"{picture.reading} Bins of {digits(float(edges[1]))} s.{scale}",
        alt=f"{picture.title} over time: {peaks} {picture.unit}".rstrip() + ".",
        traces=[
            line(
                engine,
                material.colour(engine),
                middle_s[np.isfinite(values)],
                values[np.isfinite(values)],
                hover=f"{value} at %{{x:.2f}} s",
                # One bin is no line.
                mode="lines+markers" if len(middle_s) < 20 else "lines",
            )
            for engine, values in found
        ],
        x=Axis("since the round's first request was due", "s", low=0.0, high=float(edges[-1])),
        y=Axis("share", low=0 if is_whole else None, high=1.02 if is_whole else None, share=True)
        if picture.is_share
        else Axis(picture.unit),
        height=220,
    )


SERVER_SIDE = Section("server-side", "Server side, on the same time axis", "Server side", _view, "server_side.html")
