"""A run whose report has each section: readings of servers and devices, prices, a window, answers that part, limits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from synthetic_run import ALPHA, BETA, write_run

from llmbench.results.answers import ANSWERS, KeptAnswer, answers_table
from llmbench.results.run import Run
from llmbench.results.telemetry import TELEMETRY, TELEMETRY_JOURNAL, Reading, TelemetryJournal, Value, journalled

_TICK_NS = 250_000_000


def write_full_run(path: Path, rates: tuple[float, ...] = (4.0, 8.0), rounds: int = 4) -> Run:
    """Two engines, of which alpha says all that can be said and beta's metrics cannot be read."""
    workload = {
        "name": "full",
        "description": "Everything that a report can show.",
        "model": "synthetic:llama-20m",
        "request": {"api": "completions", "stream": True, "temperature": 0.0},
        "engines": [
            {"label": "alpha", "price": {"per_hour": 2.5, "currency": "EUR"}},
            {"label": "beta", "price": {"per_hour": 1.5, "currency": "EUR"}},
        ],
        "traffic": {"requests": 24, "arrivals": {"kind": "poisson", "rate": rates[0]}},
        "measure": {
            "rounds": rounds,
            "warmup": "10%",
            "cooldown": "2 requests",
            "telemetry_s": 0.25,
            "slo": {"ttft_ms": 150.0, "tpot_ms": 20.0, "e2e_ms": None},
        },
    }
    run = write_run(path, (ALPHA, BETA), rates, num_requests=24, num_tokens=12, rounds=rounds, workload=workload)
    _write_readings(run)
    _write_answers(run)
    return Run.open(path)


def _write_readings(run: Run) -> None:
    journal = TelemetryJournal(run.path / TELEMETRY_JOURNAL)
    for trial in run.manifest.trials:
        assert trial.end_ns is not None
        for number, t_ns in enumerate(range(trial.start_ns - 1000, trial.end_ns + _TICK_NS, _TICK_NS)):
            if trial.engine == "beta":
                journal.append([Reading(t_ns, 1000, "beta", "metrics", gap="/metrics answers with HTTP status 503.")])
                continue
            sources = {
                "metrics": {
                    "requests_running": number % 5,
                    "requests_waiting": number % 3,
                    "kv_cache_usage": 0.016 * (1 + number % 2),
                    "prefix_cache_queries": 100.0 * number,
                    "prefix_cache_hits": 25.0 * number,
                    "preemptions": number // 4,
                    "draft_tokens": 40.0 * number,
                    "accepted_tokens": 22.0 * number,
                    "ttft_sum": 0.05 * number,
                    "ttft_count": number,
                },
                "process": {"cpu_seconds": 0.4 * number, "rss": 2.0**30 * (1 + number / 100)},
                "gpu": {
                    "power": 250.0 + number % 7,
                    "utilisation": 0.8,
                    "memory_used": 2.0**34,
                    "energy": 60.0 * number,
                },
                "cpu": {"cpu_energy": 15.0 * number},
            }
            journal.append(
                [
                    Reading(
                        t_ns,
                        1000,
                        "alpha",
                        source,
                        "0" if source == "gpu" else "",
                        [Value(*each) for each in told.items()],
                    )
                    for source, told in sources.items()
                ]
            )
    journal.close()
    pq.write_table(journalled(run.path / TELEMETRY_JOURNAL), run.path / TELEMETRY)


def _write_answers(run: Run) -> None:
    """beta says something else to every other question, after a few words in common."""
    path = run.path / "requests.parquet"
    table = pq.read_table(path)
    rows = table.select(["request_id", "engine", "index", "status"]).to_pylist()
    parts = np.array([row["engine"] == "beta" and row["index"] % 2 == 1 for row in rows])
    place = table.schema.get_field_index("output_sha256")
    digests = [
        "1" * 64 if parted and digest is not None else digest
        for parted, digest in zip(parts, table.column(place).to_pylist(), strict=True)
    ]
    pq.write_table(
        table.set_column(place, table.schema.field(place), pa.array(digests, table.schema.field(place).type)), path
    )
    kept = [
        KeptAnswer(row["request_id"], f"Once upon a time there was a {'ship' if parted else 'lighthouse'} by the sea.")
        for row, parted in zip(rows, parts, strict=True)
        if row["status"] == "ok"
    ]
    pq.write_table(answers_table(kept), run.path / ANSWERS)
