"""Whether a request met its objectives."""

from __future__ import annotations

from llmbench.results.records import RequestRecord
from llmbench.workloads.spec import SloSpec, WorkloadSpec

_NS_PER_MS = 1e6


def meets(record: RequestRecord, slo: SloSpec) -> bool:
    """Whether one request met every limit that `slo` sets; the same rule as `results.metrics.meets_slo`.

    A failed request meets none, and one for which a limited latency is not known misses it; but an answer of one token
    has no time per further token to miss.
    """
    if record.status != "ok":
        return False
    decode_ns, num_gaps = _between(record.first_token_ns, record.last_token_ns), (record.output_tokens or 0) - 1
    tpot_ns = 0.0 if num_gaps < 1 else None if decode_ns is None else decode_ns / num_gaps
    return (
        _within(_between(record.due_ns, record.first_token_ns), slo.ttft_ms)
        and _within(tpot_ns, slo.tpot_ms)
        and _within(_between(record.due_ns, record.end_ns), slo.e2e_ms)
    )


def unjudged(spec: WorkloadSpec) -> str | None:
    """The sentence about limits that no answer can be held to; None where all can be."""
    slo = spec.measure.slo
    limits = {"ttft_ms": slo.ttft_ms, "tpot_ms": slo.tpot_ms}
    given = [f"measure.slo.{name}" for name, limit in limits.items() if limit is not None]
    if spec.request.stream or not given:
        return None
    return f"{' and '.join(given)} cannot be judged without request.stream, so there is no goodput; limit e2e_ms."


def _between(begin_ns: int | None, end_ns: int | None) -> int | None:
    return None if begin_ns is None or end_ns is None else end_ns - begin_ns


def _within(latency_ns: float | None, limit_ms: float | None) -> bool:
    return limit_ms is None or (latency_ns is not None and latency_ns / _NS_PER_MS <= limit_ms)
