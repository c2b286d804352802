"""A run's answer in plain sentences: who is faster, by how much, how sure; or how fast the one engine is."""

from __future__ import annotations

import math
from itertools import groupby

from llmbench.results.compare import Comparison, compare
from llmbench.results.metrics import is_streamed
from llmbench.results.run import Run
from llmbench.results.samples import Samples, each_samples
from llmbench.results.statistics import Interval
from llmbench.results.summary import SummaryRow, summarise


def answer(run: Run) -> tuple[str, ...]:
    """One sentence per load level, with unit, n and interval, after one that says so if the run is not whole."""
    sentences = []
    if not run.finished:
        sentences.append("This run did not come to its end: what follows is what was stored before.")
    elif run.manifest.status == "interrupted":
        sentences.append("This run was interrupted: what follows is what was measured until then.")
    rows = {(row.engine, row.level): row for row in summarise(run).rows}
    if not rows:
        return (*sentences, "Nothing was measured.")
    for level, group in groupby(each_samples(run), key=lambda samples: samples.level):
        members = list(group)
        if len(members) == 1:
            sentences.append(_alone(rows[members[0].engine, level]))
        else:
            sentences.append(_side_by_side(members, rows))
    return tuple(sentences)


def _alone(row: SummaryRow) -> str:
    num_ok = row.num_requests - row.num_failed
    asked = f"{row.engine} answered {num_ok} of {row.num_requests} requests at {row.level}"
    if num_ok == 0:
        return f"{asked}."
    parts = []
    ttft, tpot, e2e = (row.distribution(name) for name in ("ttft", "tpot", "e2e"))
    for distribution, wording in ((ttft, "first token after"), (tpot, "then one every")):
        if distribution is not None and (median := distribution.quantiles[0.5]) is not None:
            parts.append(f"{wording} {_ms(median.value)} {_within(median.interval)}at the median")
    if not parts and e2e is not None and (median := e2e.quantiles[0.5]) is not None:
        parts.append(f"an answer after {_ms(median.value)} {_within(median.interval)}at the median")
    throughput = row.total("output_throughput")
    if throughput is not None:
        parts.append(f"{throughput:.0f} output tokens/s in all")
    return f"{asked}: {', '.join(parts)}."


def _side_by_side(members: list[Samples], rows: dict[tuple[str, str], SummaryRow]) -> str:
    level = members[0].level
    metric, words = ("e2e", "a whole answer at the median")
    ranked = sorted(members, key=lambda samples: _median(rows[samples.engine, level], metric))
    best = ranked[0]
    if not math.isfinite(_median(rows[best.engine, level], metric)):
        return f"At {level} no engine answered enough requests to say who is faster."
    told = [_against(compare(best, other, metric)) for other in ranked[1:]]
    figures = "; ".join(_figures(rows[samples.engine, level], streamed=is_streamed(samples)) for samples in ranked)
    return f"At {level}, {words}: {best.engine} {'; '.join(told)}. Medians: {figures}."


def _against(comparison: Comparison) -> str:
    if comparison.ratio is None or comparison.interval is None:
        return f"against {comparison.baseline}: insufficient data"
    low, high = comparison.interval
    sure = f"95 % interval {1 / high:.2f} to {1 / low:.2f}"
    if comparison.verdict == "faster":
        return f"is {1 / comparison.ratio:.2f} times as fast as {comparison.baseline} ({sure})"
    return f"against {comparison.baseline}: no difference shown (ratio {1 / comparison.ratio:.2f}, {sure})"


def _figures(row: SummaryRow, streamed: bool) -> str:
    names = ("ttft", "tpot", "e2e") if streamed else ("e2e",)
    titles = {"ttft": "TTFT", "tpot": "TPOT", "e2e": "E2E"}
    found = [f"{titles[name]} {_ms(_median(row, name))}" for name in names if math.isfinite(_median(row, name))]
    failed = f", {row.num_failed} of {row.num_requests} failed" if row.num_failed else f", n = {row.num_requests}"
    return f"{row.engine} {', '.join(found) or 'no answers'}{failed}"


def _median(row: SummaryRow, name: str) -> float:
    distribution = row.distribution(name)
    median = None if distribution is None else distribution.p50
    return math.inf if median is None else median


def _within(interval: Interval | None) -> str:
    if interval is None:
        return ""
    high = "∞" if math.isinf(interval.high) else f"{_digits(interval.high)} ms"
    return f"(95 % interval {_digits(interval.low)} to {high}) "


def _ms(value: float) -> str:
    return "∞" if math.isinf(value) else f"{_digits(value)} ms"


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
