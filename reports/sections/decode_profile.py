"""How the time between tokens changes as an answer grows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llmbench.reports.figure import Axis, Figure, Trace, label, line, rounded
from llmbench.reports.material import Material
from llmbench.reports.numbers import digits
from llmbench.reports.section import Section, View, figures_by_level
from llmbench.results.duration import NS_PER_MS
from llmbench.results.latencies import is_streamed
from llmbench.results.samples import Floats, Ints, Samples

_MAX_BINS = 48
# Of a longer run, every so many requests: a median per place needs no more.
_MAX_READS = 1_000_000
# Below this a bin's 90th percentile is one or two gaps.
_MIN_GAPS = 20


@dataclass(frozen=True, slots=True)
class _Profile:
    """Time per token in ms over the token's place in the answer: median and 90th percentile of each bin."""

    place: Floats
    median: Floats
    p90: Floats


def _view(material: Material) -> View | None:
    if not any(is_streamed(samples) for samples in material.samples):
        return None
    return figures_by_level(
        material,
        "Median time per token (line) and its upper range to the 90th percentile (shade) over the token's place in the "
        "answer, successful requests only. A line that climbs says that decoding slows as the context grows; a high "
        "start is the first decode step paying for someone else's prefill.",
        lambda level: _figures(material, level),
    )


def _figures(material: Material, level: str) -> list[Figure]:
    found = [
        (samples.engine, profile)
        for samples in material.samples_at(level)
        if is_streamed(samples) and (profile := _profile(samples)) is not None
    ]
    if not found:
        return []
    said = "; ".join(
        f"{engine} from {digits(float(profile.median[0]))} to {digits(float(profile.median[-1]))}"
        for engine, profile in found
    )
    return [
        Figure(
            title="Time per token along the answer",
            reading="A chunk's gap is spread over its tokens; neighbouring places are taken together.",
            alt=f"Median time per token at the start and the end of answers: {said} ms.",
            traces=[trace for engine, profile in found for trace in _traces(engine, material.colour(engine), profile)],
            x=Axis("token of the answer"),
            y=Axis("time per token", "ms"),
            wide=True,
        )
    ]


def _profile(samples: Samples) -> _Profile | None:
    place, gap_ms = _gaps(samples)
    if place.size < _MIN_GAPS:
        return None
    # About equally many gaps to a bin, each place whole in one: late places, which few answers reach, share theirs.
    num_bins = max(1, min(_MAX_BINS, place.size // _MIN_GAPS))
    edges = np.unique(np.quantile(place, np.arange(1, num_bins) / num_bins, method="inverted_cdf"))
    bins = np.searchsorted(edges, place)
    members = [each for number in range(len(edges) + 1) if (each := np.flatnonzero(bins == number)).size >= _MIN_GAPS]
    if not members:
        return None
    quantiles = np.array([np.quantile(gap_ms[each], [0.5, 0.9]) for each in members])
    return _Profile(np.array([float(place[each].mean()) for each in members]), quantiles[:, 0], quantiles[:, 1])


def _gaps(samples: Samples) -> tuple[Ints, Floats]:
    """(index of the token counted from 1, ms per token) of every content chunk but the first of its answer."""
    reads = samples.some_chunks(_MAX_READS)
    content = (reads.tokens > 0) & samples.ok[reads.request]
    request, at_ns, tokens = reads.request[content], reads.ns[content], reads.tokens[content]
    ends = np.cumsum(tokens)
    starts = np.flatnonzero(np.r_[True, request[1:] != request[:-1]]) if request.size else np.empty(0, np.int64)
    before = np.r_[0, ends][starts]
    place = ends - np.repeat(before, np.diff(np.r_[starts, request.size]))
    later = np.ones(request.size, bool)
    later[starts] = False
    gap_ms = np.diff(at_ns, prepend=at_ns[:1]) / NS_PER_MS
    return place[later], gap_ms[later] / tokens[later]


def _traces(engine: str, colour: int, profile: _Profile) -> list[Trace]:
    shade = {
        "type": "scatter",
        "mode": "lines",
        "name": label(engine),
        "x": rounded(np.concatenate([profile.place, profile.place[::-1]])),
        "y": rounded(np.concatenate([profile.p90, profile.median[::-1]])),
        "fill": "toself",
        "fillcolor": f"--c{colour}",
        "opacity": 0.15,
        "line": {"width": 0},
        "hoverinfo": "skip",
    }
    hover = "median %{y:.4~g} ms at token %{x:.0f}"
    return [shade, line(engine, colour, profile.place, profile.median, hover=hover)]


DECODE_PROFILE = Section("decode", "Token by token", "Decode profile", _view)
