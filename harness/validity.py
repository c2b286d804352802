"""Whether a run measured what it was asked to measure: what the records alone can tell."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from llmbench.results.records import RequestRecord

SEND_LAG_BUDGET_NS = 5_000_000


@dataclass(frozen=True, slots=True)
class Finding:
    """A sentence for the report. `invalid` says that the numbers beside it must not be used."""

    text: str
    invalid: bool


def judge(records: Iterable[RequestRecord], engines: Iterable[str], lag_matters: bool = True) -> list[Finding]:
    """Findings per engine, in the order of `engines`; warm-up requests are not judged.

    Invalid: no successful request; p99 of sent − due above SEND_LAG_BUDGET_NS. A flag only: answers of another length
    than asked. `lag_matters` is false where the workload bounds the requests in flight: those beyond are meant to wait.
    """
    by_engine: dict[str, list[RequestRecord]] = defaultdict(list)
    for record in records:
        if not record.warmup:
            by_engine[record.engine].append(record)
    findings: list[Finding] = []
    for engine in engines:
        asked = by_engine.get(engine)
        if asked:
            findings += _judge_engine(engine, asked, lag_matters)
    return findings


def percentile_ns(values: list[int], share: float) -> int:
    """The smallest value that at least `share` of `values` do not exceed (nearest rank). `values` is not empty."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def _judge_engine(engine: str, asked: list[RequestRecord], lag_matters: bool) -> Iterable[Finding]:
    succeeded = [record for record in asked if record.status == "ok"]
    if not succeeded:
        kinds = ", ".join(sorted({record.error_kind or "unknown" for record in asked}))
        yield Finding(f"{engine}: none of {len(asked)} requests succeeded ({kinds}).", invalid=True)
    lags_ns = [record.sent_ns - record.due_ns for record in asked if record.sent_ns is not None]
    if lag_matters and lags_ns and (p99_ns := percentile_ns(lags_ns, 0.99)) > SEND_LAG_BUDGET_NS:
        yield Finding(
            f"{engine}: requests were sent late, p99 {p99_ns / 1e6:.1f} ms after they were due (budget "
            f"{SEND_LAG_BUDGET_NS / 1e6:.0f} ms, n = {len(lags_ns)}): this machine could not keep the schedule.",
            invalid=True,
        )
    off = [record for record in succeeded if record.output_tokens not in (None, record.requested_tokens)]
    if off:
        yield Finding(
            f"{engine}: {len(off)} of {len(succeeded)} answers do not have the length asked, e.g. {off[0].request_id} "
            f"with {off[0].output_tokens} tokens where {off[0].requested_tokens} were asked.",
            invalid=False,
        )
