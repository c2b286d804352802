"""Whether a run measured what it was asked to measure."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from llmbench.harness.arrival_fit import misfit
from llmbench.results.manifest import InstrumentManifest, TrialManifest
from llmbench.results.records import RequestRecord
from llmbench.results.steadiness import growth
from llmbench.results.window import Rules, window_of

SEND_LAG_BUDGET_NS = 5_000_000
CLIENT_LAG_BUDGET_NS = 5_000_000
CLOCK_ERROR_BUDGET_NS = 5_000_000
MAX_COALESCED_SHARE = 0.01
MAX_CPU_SHARE = 0.9
MAX_WRONG_LENGTH_SHARE = 0.01


@dataclass(frozen=True, slots=True)
class Finding:
    """A sentence for the report. `invalid` says that the numbers beside it must not be used."""

    text: str
    invalid: bool


def judge(
    records: Iterable[RequestRecord],
    engines: Mapping[str, bool],
    lag_matters: bool = True,
    exact_lengths: bool = True,
    constant_load: bool = False,
) -> list[Finding]:
    """Findings per engine, in the order of `engines`, which says of each whether it can be held to a length; warm-up
    requests are not judged.

    Invalid: no successful request; p99 of sent − due, connecting left out, above SEND_LAG_BUDGET_NS; more than
    MAX_WRONG_LENGTH_SHARE of the answers of another length than asked (a flag where there are fewer, or the engine
    cannot be held to it).
    `lag_matters` is false where the workload bounds the requests in flight: those beyond are meant to wait.
    `exact_lengths` is false where answers may end when they like. `constant_load` says that requests come at one rate
    whatever the engine does: answers that came ever later are then a flag, as is a load that was over before answers
    were.
    """
    by_engine: dict[str, list[RequestRecord]] = defaultdict(list)
    for record in records:
        if not record.warmup:
            by_engine[record.engine].append(record)
    findings: list[Finding] = []
    for engine, keeps_lengths in engines.items():
        asked = by_engine.get(engine)
        if asked:
            findings += _judge_engine(engine, asked, lag_matters)
            if exact_lengths:
                findings += _judge_lengths(engine, asked, keeps_lengths)
            if constant_load:
                findings += _judge_steadiness(engine, asked)
                findings += _judge_duration(engine, asked)
    return findings


def judge_windows(records: Iterable[RequestRecord], rules: Rules) -> list[Finding]:
    """Where warm-up and cool-down could not be left out by `rules`: a flag, or invalid where nothing would be left."""
    trials: dict[tuple[str, str, int], list[RequestRecord]] = defaultdict(list)
    for record in records:
        if not record.warmup:
            trials[record.engine, record.level, record.round].append(record)
    findings = []
    for (engine, level, round_index), asked in trials.items():
        in_order = sorted(asked, key=lambda record: (record.due_ns, record.index))
        ends_ns = [
            math.nan if record.end_ns is None else float(record.end_ns - in_order[0].due_ns) for record in in_order
        ]
        due_ns = np.array([float(record.due_ns - in_order[0].due_ns) for record in in_order])
        window = window_of(due_ns, np.array(ends_ns), np.array([record.status == "ok" for record in in_order]), rules)
        where = f"{engine}, {level}, round {round_index + 1}"
        findings += [Finding(f"{where}: {note}.", invalid=window.is_void) for note in window.notes]
    return findings


def judge_trial(trial: TrialManifest, where: str) -> list[Finding]:
    """What the instrument's own figures forbid; `where` names the trial in the sentences.

    Late reads do no harm where the kernel stamps what arrives, unless they also merge what arrived apart.
    """
    findings = []
    if trial.arrivals is not None and (found := misfit(trial.arrivals)) is not None:
        findings.append(f"{where}: requests were not sent as the arrival process asks: {found}.")
    instrument = trial.instrument
    if instrument is not None and trial.end_ns is not None:
        duration_s = (trial.end_ns - trial.start_ns) / 1e9
        if not instrument.workers:
            findings += _judge_instrument(instrument, duration_s, f"{where}: the load generator")
        # A worker that was starved does not show in the quantiles of all.
        for number, worker in enumerate(instrument.workers, start=1):
            findings += _judge_instrument(worker, duration_s, f"{where}: load worker {number}")
        if instrument.clock_error_ns is not None and instrument.clock_error_ns > CLOCK_ERROR_BUDGET_NS:
            findings.append(
                f"{where}: the clocks of the load workers' hosts may be {instrument.clock_error_ns / 1e6:.1f} ms apart "
                f"(budget {CLOCK_ERROR_BUDGET_NS / 1e6:.0f} ms), and so may their requests."
            )
    return [Finding(text, invalid=True) for text in findings]


def _judge_instrument(instrument: InstrumentManifest, duration_s: float, who: str) -> Iterable[str]:
    lag, stamped_by = instrument.client_lag, "the kernel stamped what arrived"
    if instrument.clock == "user space":
        lag, stamped_by = instrument.loop_lag, "stamps are as late as it was"
    merged = (instrument.num_coalesced or 0) / (instrument.num_chunks or 1)
    harmful = instrument.clock == "user space" or (instrument.clock == "kernel" and merged > MAX_COALESCED_SHARE)
    if harmful and lag is not None and lag.p99_ns is not None and lag.p99_ns > CLIENT_LAG_BUDGET_NS:
        yield (
            f"{who} read late, p99 {lag.p99_ns / 1e6:.1f} ms (budget {CLIENT_LAG_BUDGET_NS / 1e6:.0f} ms); "
            f"{stamped_by}, {merged:.1%} of the chunks only together with others."
        )
    if instrument.cpu_s is not None and duration_s > 0 and (share := instrument.cpu_s / duration_s) > MAX_CPU_SHARE:
        yield (
            f"{who} was busy {share:.0%} of the time (budget {MAX_CPU_SHARE:.0%}): it could not have kept up with "
            "more, and hardly did with this."
        )


def percentile_ns(values: list[int], share: float) -> int:
    """The smallest value that at least `share` of `values` do not exceed (nearest rank). `values` is not empty."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def _judge_engine(engine: str, asked: list[RequestRecord], lag_matters: bool) -> Iterable[Finding]:
    succeeded = [record for record in asked if record.status == "ok"]
    if not succeeded:
        kinds = ", ".join(sorted({record.error_kind or "unknown" for record in asked}))
        yield Finding(f"{engine}: none of {len(asked)} requests succeeded ({kinds}).", invalid=True)
    lags_ns = [_own_lag_ns(record) for record in asked if record.sent_ns is not None]
    if lag_matters and lags_ns and (p99_ns := percentile_ns(lags_ns, 0.99)) > SEND_LAG_BUDGET_NS:
        yield Finding(
            f"{engine}: requests were sent late, p99 {p99_ns / 1e6:.1f} ms after they were due (budget "
            f"{SEND_LAG_BUDGET_NS / 1e6:.0f} ms, n = {len(lags_ns)}, connecting left out): this machine could not "
            "keep the schedule.",
            invalid=True,
        )


def _own_lag_ns(record: RequestRecord) -> int:
    """How late the instrument sent an attempt: without the wait before it, which was asked for, and without connecting,
    which takes as long as the server and the way there take."""
    assert record.sent_ns is not None
    connecting_ns = 0
    if record.begun_ns is not None and record.connect_ns is not None:
        connecting_ns = record.connect_ns - record.begun_ns
    return record.sent_ns - (record.attempt_due_ns or record.due_ns) - connecting_ns


def _judge_lengths(engine: str, asked: list[RequestRecord], keeps_lengths: bool) -> Iterable[Finding]:
    succeeded = [record for record in asked if record.status == "ok"]
    off = [record for record in succeeded if record.output_tokens not in (None, record.requested_tokens)]
    if off:
        why = "" if keeps_lengths else " This engine has no way to go on after its end token."
        yield Finding(
            f"{engine}: {len(off)} of {len(succeeded)} answers do not have the length asked, e.g. {off[0].request_id} "
            f"with {off[0].output_tokens} tokens where {off[0].requested_tokens} were asked.{why}",
            invalid=keeps_lengths and len(off) > MAX_WRONG_LENGTH_SHARE * len(succeeded),
        )


def _judge_steadiness(engine: str, asked: list[RequestRecord]) -> Iterable[Finding]:
    """A flag for each trial in which the wait for an answer's first token grew all through."""
    trials: dict[tuple[str, int], list[RequestRecord]] = defaultdict(list)
    for record in asked:
        if record.first_token_ns is not None:
            trials[record.level, record.round].append(record)
    for (level, round_index), records in trials.items():
        in_order = sorted(records, key=lambda record: (record.due_ns, record.index))
        waits_ms = [((record.first_token_ns or 0) - record.due_ns) / 1e6 for record in in_order]
        if (found := growth(np.array(waits_ms))) is not None:
            yield Finding(
                f"{engine}, {level}, round {round_index + 1}: no steady state was reached. First tokens came ever "
                f"later, {found.first:.0f} ms after they were due in the first fifth, {found.last:.0f} ms in the last "
                f"(Mann-Kendall p = {found.p:.1g}): the load is more than the engine sustains, and a longer run would "
                "show longer latencies.",
                invalid=False,
            )


def _judge_duration(engine: str, asked: list[RequestRecord]) -> Iterable[Finding]:
    """A flag for each level of which a trial's requests had all come when half of its answers were still under way."""
    trials: dict[str, dict[int, list[RequestRecord]]] = defaultdict(lambda: defaultdict(list))
    for record in asked:
        trials[record.level][record.round].append(record)
    for level, rounds in trials.items():
        for records in rounds.values():
            due_ns = [record.due_ns for record in records]
            took_ns = [each.end_ns - each.due_ns for each in records if each.status == "ok" and each.end_ns is not None]
            span_ns = max(due_ns) - min(due_ns)
            if len(records) > 1 and took_ns and (median_ns := percentile_ns(took_ns, 0.5)) > span_ns:
                yield Finding(
                    f"{engine}, {level}: {len(records)} requests were all due within {span_ns / 1e9:.2g} s, and an "
                    f"answer took {median_ns / 1e9:.2g} s at the median: that is a burst, and shows nothing of a load "
                    "that lasts. Give more requests, or traffic.duration_s.",
                    invalid=False,
                )
                break
