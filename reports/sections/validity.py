"""Whether the numbers may be used: what went wrong, and how well the instrument did its own work."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from llmbench.reports.material import Material
from llmbench.reports.numbers import count, digits, percent
from llmbench.reports.section import Section, View
from llmbench.results.answer import left_out
from llmbench.results.latencies import is_streamed
from llmbench.results.metrics import values_of
from llmbench.results.samples import Samples
from llmbench.results.statistics import MIN_ROUNDS, required_n
from llmbench.results.window import Rules

_STATES = {
    "complete": "The run came to its end.",
    "interrupted": "The run was interrupted; this is what was measured until then.",
    "running": "The run has not come to its end: it is still under way, or its process was killed.",
}

_SOURCES = {
    "token_ids": "the engine's token ids",
    "usage_delta": "the engine's running usage count",
    "logprobs": "one log probability per token",
    "server_count": "the engine's final usage count",
    "retokenised": "the text, tokenised again",
    "assumed_one": "assuming one token per chunk",
}


@dataclass(frozen=True, slots=True)
class Fact:
    """Something measured about the measurement. `beware` marks what a careful reader would ask about, `more` is what
    only some will want to read."""

    title: str
    text: str
    beware: bool = False
    more: tuple[str, ...] = ()


def _view(material: Material) -> View:
    status = material.manifest.status
    return {
        "state": left_out(material.manifest) if status == "failed" else _STATES[status],
        "bad": status in ("failed", "running") or bool(material.manifest.invalid),
        "invalid": material.manifest.invalid,
        "caveats": tuple(each for each in material.manifest.problems if each not in material.manifest.invalid),
        "facts": _facts(material) if material.samples else [],
    }


def _facts(material: Material) -> list[Fact]:
    samples = material.samples
    facts = [_requests(samples), _window(material), _rounds(material)]
    if (send := _send_lag(material)) is not None:
        facts.append(send)
    facts.append(_measuring_error(material))
    if any(is_streamed(each) for each in samples):
        facts.append(_tails(samples))
    facts.append(_token_counts(samples))
    return facts


def _requests(samples: tuple[Samples, ...]) -> Fact:
    num = sum(len(each.whole) for each in samples)
    num_failed = sum(int((~each.whole.ok).sum()) for each in samples)
    if not num_failed:
        return Fact("Requests", f"all {count(num)} were answered")
    return Fact("Requests", f"{count(num_failed)} of {count(num)} failed and count as infinitely slow", beware=True)


def _window(material: Material) -> Fact:
    rows = material.summary.rows
    if len({row.window for row in rows}) == 1:
        return Fact("Window", rows[0].window)
    counted = [(len(each), len(each.whole)) for each in material.samples]
    few, many = min(inside / whole for inside, whole in counted), max(inside / whole for inside, whole in counted)
    share = percent(few) if percent(few) == percent(many) else f"{percent(few)} to {percent(many)}"
    return Fact(
        "Window",
        f"{Rules.of(material.workload)}: {share} of an engine's requests count",
        more=tuple(f"{row.engine} at {row.level}: {row.window}" for row in rows),
    )


def _rounds(material: Material) -> Fact:
    nums = [row.num_rounds for row in material.summary.rows]
    fewest, most = min(nums), max(nums)
    if most == 1:
        return Fact("Repetition", "one round; nothing shows whether another would agree", beware=True)
    told = f"{most} rounds" if fewest == most else f"{fewest} to {most} rounds, by load and engine"
    if fewest < MIN_ROUNDS:
        return Fact("Repetition", f"{told}; how rounds differ shows from {MIN_ROUNDS} on", beware=True)
    return Fact("Repetition", f"{told}; intervals cover how they differ")


def _send_lag(material: Material) -> Fact | None:
    if any(str(level).startswith("closed") for level in material.levels):
        return Fact("Schedule", "closed loop: each request is sent as soon as a slot is free")
    lags_ms = np.concatenate([values_of(each, "send_lag").values for each in material.samples])
    if not lags_ms.size:
        return None
    return Fact("Schedule", f"99 % of requests were sent within {digits(float(np.quantile(lags_ms, 0.99)))} ms of due")


def _measuring_error(material: Material) -> Fact:
    calibration = material.manifest.calibration
    if not calibration:
        return Fact("Measuring error", "not measured with this run; below is how well the instrument kept time")
    ttft, itl = (
        max((lag.p99_ns for lag in lags if lag.p99_ns is not None), default=None)
        for lags in zip(*((level.ttft_error, level.itl_error) for level in calibration), strict=True)
    )
    told = [f"{name} {digits(ns / 1e6)} ms" for name, ns in (("TTFT", ttft), ("ITL", itl)) if ns is not None]
    if not told:
        return Fact("Measuring error", "the calibration saw no answers", beware=True)
    return Fact("Measuring error", f"p99 {' and '.join(told)}, against an engine whose true send times are known")


def _tails(samples: tuple[Samples, ...]) -> Fact:
    fewest = min(len(each) for each in samples)
    if fewest < required_n(0.99):
        few = "as few as " if fewest < max(len(each) for each in samples) else ""
        text = (
            f"{few}{count(fewest)} requests per engine and load: a p99 takes {required_n(0.99)}, and less leaves it out"
        )
        return Fact("Tails", text, beware=True)
    return Fact("Tails", f"at least {count(fewest)} requests per engine and load, enough for a p99")


def _token_counts(samples: tuple[Samples, ...]) -> Fact:
    found = Counter(source for each in samples for source in each.texts("token_source") if source is not None)
    if not found:
        return Fact("Token counts", "no engine gave any", beware=True)
    num = found.total()
    told = ", ".join(
        _SOURCES.get(source, source) + (f" ({percent(times / num)})" if len(found) > 1 else "")
        for source, times in found.most_common()
    )
    return Fact("Token counts", f"from {told}", beware="assumed_one" in found)


VALIDITY = Section("validity", "Can these numbers be used?", "Validity", _view, "validity.html")
