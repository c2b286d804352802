"""A run's answer in plain sentences: who is faster, by how much, how sure; or how fast the one engine is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby

from llmbench.results.compare import Comparison, compare, settle
from llmbench.results.figures import FIGURE_BY_NAME, figures_of
from llmbench.results.latencies import is_streamed
from llmbench.results.manifest import Manifest
from llmbench.results.own_error import own_error_ms
from llmbench.results.run import Run
from llmbench.results.samples import Samples, each_samples
from llmbench.results.statistics import Interval
from llmbench.results.summary import SummaryRow, summarise
from llmbench.results.units import MIN_ROUNDS


def answer(run: Run) -> tuple[str, ...]:
    """One sentence per load level, with unit, n and interval, after one that says so if the run is not whole."""
    sentences = list(incompleteness(run))
    rows = {(row.engine, row.level): row for row in summarise(run).rows}
    if not rows:
        return tuple(sentences) if run.manifest.status == "failed" else (*sentences, "Nothing was measured.")
    for level, group in groupby(each_samples(run), key=lambda samples: samples.level):
        members = list(group)
        if len(members) == 1:
            sentences.append(_alone(run, rows[members[0].engine, level]))
        else:
            sentences.append(_side_by_side(members, rows))
    return tuple(sentences)


def incompleteness(run: Run) -> tuple[str, ...]:
    """The sentence that says so if the run is not whole."""
    if not run.finished:
        return ("This run did not come to its end: what follows is what was stored before.",)
    if run.manifest.status == "interrupted":
        return ("This run was interrupted: what follows is what was measured until then.",)
    return (left_out(run.manifest),) if run.manifest.status == "failed" else ()


def left_out(manifest: Manifest) -> str:
    """Which engines did not start, and whose figures there are, for a run of status `failed`."""
    asked = {trial.engine for trial in manifest.trials}
    without = [engine.label for engine in manifest.engines if engine.label not in asked]
    others = [engine.label for engine in manifest.engines if engine.label in asked]
    if not others:
        return f"{_listed(without)} did not start, so nothing was measured."
    if not without:
        return "An engine did not start again for every round: its figures are of fewer rounds than the others'."
    return f"{_listed(without)} did not start; {_listed(others)} {'was' if len(others) == 1 else 'were'} measured."


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _alone(run: Run, row: SummaryRow) -> str:
    num_ok = row.num_requests - row.num_failed
    asked = f"{row.engine} answered {num_ok} of {row.num_requests} requests at {row.level}"
    if num_ok == 0:
        return f"{asked}."
    parts = []
    ttft, tpot, e2e = (row.distribution(name) for name in ("ttft", "tpot", "e2e"))
    for name, distribution, wording in (("ttft", ttft, "first token after"), ("tpot", tpot, "then one every")):
        if distribution is not None and (median := distribution.quantiles[0.5]) is not None:
            own = _own(run, row, name)
            parts.append(f"{wording} {_ms(median.value)} {_within(median.interval)}at the median{own}")
    if not parts and e2e is not None and (median := e2e.quantiles[0.5]) is not None:
        own = _own(run, row, "e2e")
        parts.append(f"an answer after {_ms(median.value)} {_within(median.interval)}at the median{own}")
    throughput = row.total("output_throughput")
    if throughput is not None:
        parts.append(f"{throughput:.0f} output tokens/s in all")
    return f"{asked}: {', '.join(parts)}."


def _side_by_side(members: list[Samples], rows: dict[tuple[str, str], SummaryRow]) -> str:
    level = members[0].level
    ranked = sorted(members, key=lambda samples: _median(rows[samples.engine, level], "e2e"))
    best = ranked[0]
    if not math.isfinite(_median(rows[best.engine, level], "e2e")):
        return f"At {level} no engine answered enough requests to say who is faster."
    names = [name for name in _TOLD if is_streamed(best) or name == "e2e_p50"]
    found = {samples.engine: figures_of(samples) for samples in members}
    compared = settle(
        [
            compare(
                FIGURE_BY_NAME[name],
                level,
                (best.engine, found[best.engine].get(name)),
                (other.engine, found[other.engine].get(name)),
                paired=True,
            )
            for other in ranked[1:]
            for name in names
        ]
    )
    told = [_against([each for each in compared if each.baseline == other.engine], best.engine) for other in ranked[1:]]
    figures = "; ".join(_figures(rows[samples.engine, level], streamed=is_streamed(samples)) for samples in ranked)
    caveat = "" if all(each.across_rounds for each in compared) else _few_rounds(rows[best.engine, level].num_rounds)
    return f"At {level}, at the median, {'; '.join(told)}. {caveat}Medians: {figures}."


_TOLD = {"e2e_p50": "to a whole answer", "ttft_p50": "to the first token", "tpot_p50": "from token to token"}


def _against(comparisons: list[Comparison], best: str) -> str:
    other = comparisons[0].baseline
    told = []
    for each in comparisons:
        words = _TOLD[each.spec.name]
        gain, interval = each.gain, each.gain_interval
        if gain is None or interval is None:
            told.append(f"{each.verdict} {words}")
            continue
        sure = f"95 % interval {interval.low:.2f} to {interval.high:.2f}"
        if each.verdict in ("faster", "slower"):
            told.append(f"{gain:.2f} times as fast {words} ({sure})")
        else:
            told.append(f"no difference shown {words} (ratio {gain:.2f}, {sure})")
    return f"{best} against {other}: {', '.join(told)}"


def _few_rounds(num_rounds: int) -> str:
    rounds = "one round" if num_rounds == 1 else f"{num_rounds} rounds"
    return (
        f"This is from {rounds}, so how rounds differ is not in the intervals and there is no verdict (that takes "
        f"{MIN_ROUNDS}). "
    )


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


def _own(run: Run, row: SummaryRow, metric: str) -> str:
    error_ms = own_error_ms(run.manifest, row.level, metric)
    return "" if error_ms is None else f", ± {error_ms:.2g} ms of the instrument"


def _ms(value: float) -> str:
    return "∞" if math.isinf(value) else f"{_digits(value)} ms"


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
