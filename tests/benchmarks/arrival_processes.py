"""Whether requests leave as a Poisson process does, whatever the rate and the number of load workers.

    python tests/benchmarks/arrival_processes.py                    50, 200 and 1000/s with 1, 2 and 4 workers, 20 seeds
    python tests/benchmarks/arrival_processes.py --rates 200 --seeds 5

The bundled simulated engine answers at once with one token. Judged are the instants at which requests were sent: the
mean index of dispersion of all seeds in windows of WINDOW mean gaps, and each seed's gaps by a Kolmogorov-Smirnov test.
One test in a hundred calls a right process wrong at p 0.01, so a few of many may. What the tests would find in longer
loads stands beside them: the distance D of all gaps together from an exponential. It cannot become 0 at high rates, as
requests that are due within the time it takes to send one leave one after the other. Due times must be the same for all
numbers of workers. The last line is JSON; exit code 1 where a row does not hold.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from llmbench.engines import registry
from llmbench.engines.adapter import EngineOptions
from llmbench.engines.wire import Endpoint, GenerationRequest, Timeline
from llmbench.harness.load_crew import LoadCrew
from llmbench.harness.plan import PlannedRequest
from llmbench.harness.process import EngineProcess, free_port
from llmbench.harness.recorder import AdapterRef
from llmbench.harness.stop_flag import StopFlag
from llmbench.workloads.arrivals import PoissonArrivals, arrival_offsets_ns
from llmbench.workloads.spec import TimeoutSpec

WINDOW = 5
TOLERANCE = 0.15
MIN_P = 0.01
ENGINE = AdapterRef("simulated", {"ttft_ms": 0})


def main() -> None:
    options = _options()
    rows: list[dict[str, Any]] = []
    due: dict[tuple[float, int], list[int]] = {}
    heading = f"{'rate':>6} {'workers':>7} {'sent':>7} {'dispersion':>15} {'KS p: median, lowest':>22}"
    print(f"{heading} {'<0.01':>6} {'D':>6} {'send lag p50, p99 (ms)':>23}  holds", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        plan = registry.get(*ENGINE).launch_plan(
            EngineOptions("simulated", "simulated", settings=ENGINE.settings), free_port()
        )
        assert plan is not None
        engine = EngineProcess.start("simulated", plan, Path(folder) / "engine.log")
        try:
            engine.wait_ready()
            for num_workers in options.workers:
                with LoadCrew(num_workers) as crew:
                    _one_load(crew, plan.endpoint, 100.0, 50, seed=0)  # connections, imports
                    for rate in options.rates:
                        num_requests = max(200, round(rate * options.seconds))
                        loads = [
                            _one_load(crew, plan.endpoint, rate, num_requests, seed) for seed in range(options.seeds)
                        ]
                        for seed, (_, due_ns) in enumerate(loads):
                            assert due.setdefault((rate, seed), due_ns) == due_ns, "due times depend on the workers"
                        rows.append(_row(rate, num_workers, loads))
                        _print(rows[-1])
        finally:
            engine.stop()
    print(json.dumps(rows))
    sys.exit(0 if all(row["holds"] for row in rows) else 1)


def _one_load(
    crew: LoadCrew, endpoint: Endpoint, rate: float, num_requests: int, seed: int
) -> tuple[list[int], list[int]]:
    """When each request was sent, and was due, from the start in ns."""
    offsets_ns = arrival_offsets_ns(PoissonArrivals(rate=rate), num_requests, seed)
    assert offsets_ns is not None
    requests = [
        PlannedRequest(
            request_id=f"r{index}",
            index=index,
            due_offset_ns=offset_ns,
            generation=GenerationRequest(f"r{index}", "simulated", 1, prompt="hello"),
            warmup=False,
            prompt_tokens=None,
        )
        for index, offset_ns in enumerate(offsets_ns)
    ]
    seen: dict[str, Timeline] = {}
    report = crew.run_load(
        requests,
        adapter=ENGINE,
        endpoint=endpoint,
        concurrency=None,
        timeouts=TimeoutSpec(),
        on_done=seen.__setitem__,
        stop=StopFlag(),
    )
    timelines = [seen[request.request_id] for request in requests]
    sent_ns = [timeline.sent_ns - report.start_ns for timeline in timelines if timeline.sent_ns is not None]
    assert len(sent_ns) == num_requests, "a request was not sent"
    return sent_ns, [timeline.due_ns - report.start_ns for timeline in timelines]


def _row(rate: float, num_workers: int, loads: list[tuple[list[int], list[int]]]) -> dict[str, Any]:
    indices, ks_p = [], []
    for sent_ns, _ in loads:
        sent_s = np.sort(np.array(sent_ns)) / 1e9
        edges = np.arange(0, sent_s[-1], WINDOW / rate)
        counts = np.histogram(sent_s, edges)[0]
        indices.append(counts.var(ddof=1) / counts.mean())
        ks_p.append(stats.kstest(np.diff(sent_s) * rate, "expon").pvalue)
    lags_ms = np.concatenate([np.array(sent_ns) - np.array(due_ns) for sent_ns, due_ns in loads]) / 1e6
    gaps = np.concatenate([np.diff(np.sort(sent_ns)) for sent_ns, _ in loads]) / 1e9
    dispersion, num_rejected = float(np.mean(indices)), sum(int(p <= MIN_P) for p in ks_p)
    return {
        "rate": rate,
        "workers": num_workers,
        "sent": int(lags_ms.size),
        "dispersion": dispersion,
        "dispersion_error": float(np.std(indices, ddof=1) / len(indices) ** 0.5) if len(indices) > 1 else None,
        "ks_p_median": float(np.median(ks_p)),
        "ks_p_lowest": min(ks_p),
        "ks_rejected": num_rejected,
        "ks_distance": float(stats.kstest(gaps * rate, "expon").statistic),
        "send_lag_ms": np.quantile(lags_ms, (0.5, 0.99)).tolist(),
        "holds": bool(abs(dispersion - 1) <= TOLERANCE and num_rejected <= stats.binom.ppf(0.999, len(ks_p), MIN_P)),
    }


def _print(row: dict[str, Any]) -> None:
    ks = f"{row['ks_p_median']:13.3f}, {row['ks_p_lowest']:7.4f} {row['ks_rejected']:6} {row['ks_distance']:6.3f}"
    error = "" if row["dispersion_error"] is None else f" ± {row['dispersion_error']:.3f}"
    p50, p99 = row["send_lag_ms"]
    print(
        f"{row['rate']:6g} {row['workers']:7} {row['sent']:7} {row['dispersion']:7.3f}{error} {ks} "
        f"{p50:14.2f}, {p99:7.2f}  {'yes' if row['holds'] else 'NO'}",
        flush=True,
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=float, nargs="+", default=[50, 200, 1000], help="requests per s")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4], help="load workers")
    parser.add_argument("--seeds", type=int, default=20, help="schedules of each rate")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each load; at least 200 requests")
    return parser.parse_args()


if __name__ == "__main__":
    main()
