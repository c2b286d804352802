"""What several load workers report, as one load."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from llmbench.harness.lag_samples import LagSamples
from llmbench.harness.loadgen import InstrumentLags, LoadReport
from llmbench.results.manifest import InstrumentManifest


def merged(reports: Sequence[LoadReport], lost_workers: Sequence[str], start_ns: int | None) -> LoadReport:
    """One report of all workers; `start_ns` is when they were to start, None where it did not come to that.

    Delays are those of all workers' samples together, so their quantiles are true ones; counts and CPU seconds are
    sums. Each worker's own figures are kept beside them, as a starved one may not show in the whole. A lost worker
    took its figures with it.
    """
    lags = InstrumentLags(
        *(LagSamples.merged(parts) for parts in zip(*(report.lags for report in reports), strict=True))
        if reports
        else (LagSamples(), LagSamples(), LagSamples())
    )
    workers = tuple(report.instrument for report in reports)
    started_ns = time.perf_counter_ns() if start_ns is None else start_ns
    return LoadReport(
        start_ns=started_ns,
        end_ns=max([started_ns, *(report.end_ns for report in reports)]),
        num_unsent=sum(report.num_unsent for report in reports),
        instrument=InstrumentManifest(
            event_loop=_all(worker.event_loop for worker in workers),
            scheduling=_all(worker.scheduling or "unknown" for worker in workers),
            reader=_all(worker.reader or "unknown" for worker in workers),
            clock=_all(worker.clock for worker in workers),
            loop_lag=lags.loop.manifest(),
            send_lag=lags.send.manifest(),
            client_lag=lags.client.manifest(),
            num_chunks=sum(worker.num_chunks or 0 for worker in workers),
            num_coalesced=sum(worker.num_coalesced or 0 for worker in workers),
            cpu_s=sum(worker.cpu_s or 0.0 for worker in workers),
            workers=workers,
            # Two workers may be off to different sides.
            clock_error_ns=sum(sorted(worker.clock_error_ns or 0 for worker in workers)[-2:]),
        ),
        lags=lags,
        lost_workers=tuple(lost_workers),
    )


def _all(names: Iterable[str]) -> str:
    """What all say, or each thing that some say."""
    return ", ".join(sorted(set(names))) or "unknown"
