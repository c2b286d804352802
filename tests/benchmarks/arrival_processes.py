"""Whether requests leave as a Poisson process does, whatever the rate and the number of load workers.

    python tests/benchmarks/arrival_processes.py                    50, 200 and 1000/s with 1, 2 and 4 workers, 20 seeds
    python tests/benchmarks/arrival_processes.py --rows 1000x1 50x4 --seeds 5

The bundled simulated engine answers at once with one token. The seeds are 0, 1, 2, …, chosen before any was run. 20
plans of an exact Poisson process hold one with a Kolmogorov-Smirnov p below 0.01 in 18 % of cases, so the p of the due
times, which is the plan's own chance, stands beside that of the times at which requests were sent. A row holds when

- the index of dispersion of what was sent, the mean over the seeds in windows of WINDOW mean gaps, is 1 ± TOLERANCE;
- every seed whose due times have p > MIN_P has p > MIN_P as sent;
- the seeds' p as sent, combined by Fisher's method, are > MIN_P: many slightly too small ones do not pass;
- none of its loads is invalid by the rule that a run is held to (`harness/arrival_fit.py`).

Due times must be the same for all numbers of workers. `moved` is the distance between the gaps as due and as sent, the
mean over the seeds. It cannot become 0 at high rates: sending takes time, and requests that are due within it leave one
after the other. The last line is JSON; exit code 1 where a row does not hold.

How long a load is decides what its test can see: of n gaps it rejects a distribution that is off by 1.63/√n. At
1000/s, where a gap below t has the probability t · 1000/s, that is a shortest time between two sends of 36 µs in the
2 s of a load here, and of 12 µs in 20 s: less than the kernel takes for one send over loopback (13 to 18 µs, medians of
four loads of 2 s). So a single sender fails that one more often than not: of four loads of 20 s three did, on a machine
with other work to do.
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
from llmbench.harness.arrival_fit import arrival_fit, misfit
from llmbench.harness.load_crew import LoadCrew
from llmbench.harness.plan import PlannedRequest
from llmbench.harness.process import EngineProcess, free_port
from llmbench.harness.recorder import AdapterRef
from llmbench.harness.stop_flag import StopFlag
from llmbench.results.manifest import ArrivalManifest
from llmbench.workloads.arrivals import PoissonArrivals, arrival_offsets_ns
from llmbench.workloads.spec import TimeoutSpec

WINDOW = 5
TOLERANCE = 0.15
MIN_P = 0.01
# Of each load. With 120 the test of the gaps at 50/s still sees what moves one gap in seven, and a row takes a minute.
MIN_REQUESTS = 120
ENGINE = AdapterRef("simulated", {"ttft_ms": 0})


def main() -> None:
    options = _options()
    rows: list[dict[str, Any]] = []
    due: dict[tuple[float, int], list[int]] = {}
    heading = f"{'rate':>6} {'workers':>7} {'sent':>7} {'dispersion':>15}"
    heading += f" {'KS p due: Fisher, low':>22} {'sent: Fisher, low':>18} {'<0.01':>6} {'moved':>6}"
    print(f"{heading} {'send lag p50, p99 (ms)':>23}  holds", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        plan = registry.get(*ENGINE).launch_plan(
            EngineOptions("simulated", "simulated", settings=ENGINE.settings), free_port()
        )
        assert plan is not None
        engine = EngineProcess.start("simulated", plan, Path(folder) / "engine.log")
        try:
            engine.wait_ready()
            for num_workers in dict.fromkeys(workers for _, workers in options.rows):
                with LoadCrew(num_workers) as crew:
                    _one_load(crew, plan.endpoint, 100.0, 50, seed=0)  # connections, imports
                    for rate in [rate for rate, workers in options.rows if workers == num_workers]:
                        num_requests = max(MIN_REQUESTS, round(rate * options.seconds))
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
    fits = [_fit(rate, due_ns, sent_ns) for sent_ns, due_ns in loads]
    indices = [_dispersion(rate, sent_ns) for sent_ns, _ in loads]
    p_due, p_sent = ([_ks_p(rate, load[which]) for load in loads] for which in (1, 0))
    lags_ms = np.concatenate([np.array(sent_ns) - np.array(due_ns) for sent_ns, due_ns in loads]) / 1e6
    dispersion, combined = float(np.mean(indices)), float(stats.combine_pvalues(p_sent).pvalue)
    num_spoilt = sum(sent <= MIN_P < due for sent, due in zip(p_sent, p_due, strict=True))
    misfits = [found for fit in fits if (found := misfit(fit)) is not None]
    return {
        "rate": rate,
        "workers": num_workers,
        "sent": int(lags_ms.size),
        "dispersion": dispersion,
        "dispersion_error": float(np.std(indices, ddof=1) / len(indices) ** 0.5) if len(indices) > 1 else None,
        "ks_p_due": p_due,
        "ks_p_sent": p_sent,
        "ks_p_due_combined": float(stats.combine_pvalues(p_due).pvalue),
        "ks_p_sent_combined": combined,
        "ks_spoilt": num_spoilt,
        "ks_moved": float(np.mean([fit.ks_moved for fit in fits if fit.ks_moved is not None])),
        "misfits": misfits,
        "send_lag_ms": np.quantile(lags_ms, (0.5, 0.99)).tolist(),
        "holds": abs(dispersion - 1) <= TOLERANCE and num_spoilt == 0 and combined > MIN_P and not misfits,
    }


def _fit(rate: float, due_ns: list[int], sent_ns: list[int]) -> ArrivalManifest:
    fit = arrival_fit(PoissonArrivals(rate=rate), due_ns, sent_ns)
    assert fit is not None
    return fit


def _dispersion(rate: float, sent_ns: list[int]) -> float:
    sent_s = np.sort(np.array(sent_ns)) / 1e9
    counts = np.histogram(sent_s, np.arange(0, sent_s[-1], WINDOW / rate))[0]
    return float(counts.var(ddof=1) / counts.mean())


def _ks_p(rate: float, at_ns: list[int]) -> float:
    return float(stats.kstest(np.diff(np.sort(np.array(at_ns))) / 1e9 * rate, "expon").pvalue)


def _print(row: dict[str, Any]) -> None:
    error = "" if row["dispersion_error"] is None else f" ± {row['dispersion_error']:.3f}"
    due = f"{row['ks_p_due_combined']:14.3f}, {min(row['ks_p_due']):.4f}"
    sent = f"{row['ks_p_sent_combined']:10.3f}, {min(row['ks_p_sent']):.4f}"
    num_low = sum(p <= MIN_P for p in row["ks_p_sent"])
    p50, p99 = row["send_lag_ms"]
    print(
        f"{row['rate']:6g} {row['workers']:7} {row['sent']:7} {row['dispersion']:7.3f}{error} {due} {sent} {num_low:6} "
        f"{row['ks_moved']:6.3f} {p50:14.3f}, {p99:7.3f}  {'yes' if row['holds'] else 'NO'}",
        flush=True,
    )
    for found in row["misfits"]:
        print(f"       invalid: {found}", flush=True)


def _rate_and_workers(row: str) -> tuple[float, int]:
    rate, _, workers = row.partition("x")
    return float(rate), int(workers)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = [(rate, workers) for workers in (1, 2, 4) for rate in (50.0, 200.0, 1000.0)]
    parser.add_argument("--rows", type=_rate_and_workers, nargs="+", default=every, help="RATExWORKERS; default all 9")
    parser.add_argument("--seeds", type=int, default=20, help="schedules of each rate")
    parser.add_argument("--seconds", type=float, default=2.0, help=f"of each load; at least {MIN_REQUESTS} requests")
    return parser.parse_args()


if __name__ == "__main__":
    main()
