"""Which requests met the limits of the workload's `measure.slo`."""

from __future__ import annotations

from llmbench.results.duration import NS_PER_MS
from llmbench.results.latencies import is_streamed, tpot_ms
from llmbench.results.samples import Bools, Samples


def meets_slo(samples: Samples) -> Bools | None:
    """Whether each request met every limit of the workload's `measure.slo`; None if it sets none.

    A failed request meets none. A request for which a limited latency is not defined misses it, but a one-token answer
    has no TPOT to miss. None too where a limit cannot be judged: TTFT and TPOT of answers that were not streamed.
    """
    slo = slo_ms(samples)
    if not slo or (not is_streamed(samples) and slo.keys() & {"ttft_ms", "tpot_ms"}):
        return None
    met = samples.ok.copy()
    ttft_ms = (samples.ns("first_token_ns") - samples.ns("due_ns")) / NS_PER_MS
    e2e_ms = (samples.ns("end_ns") - samples.ns("due_ns")) / NS_PER_MS
    if "ttft_ms" in slo:
        met &= ttft_ms <= slo["ttft_ms"]
    if "e2e_ms" in slo:
        met &= e2e_ms <= slo["e2e_ms"]
    if "tpot_ms" in slo:
        met &= (tpot_ms(samples) <= slo["tpot_ms"]) | (samples.counts("output_tokens") < 2)
    return met


def slo_ms(samples: Samples) -> dict[str, float]:
    """The limits of the workload's `measure.slo` that are set, in ms."""
    measure = samples.run.manifest.workload.get("measure")
    slo = measure.get("slo") if isinstance(measure, dict) else None
    if not isinstance(slo, dict):
        return {}
    return {name: float(limit) for name, limit in slo.items() if isinstance(limit, int | float)}
