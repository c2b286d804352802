"""How long a large run takes to summarise and to report, and in how much memory.

    python tests/benchmarks/large_run.py --requests 1000000 --chunks 100

Writes a made-up run of two engines to a temporary folder (16 bytes per read or so), then reads it in a fresh process.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llmbench.results.manifest import ClockManifest, EngineManifest, Manifest, TrialManifest
from llmbench.results.schema import chunk_schema, request_schema

ENGINES, ROUNDS = ("a", "b"), 5
REQUESTS_PER_GROUP = 4_000
MS = 1_000_000


def write_run(path: Path, num_requests: int, num_chunks: int) -> None:
    generator = np.random.default_rng(0)
    trials = [(engine, number) for number in range(ROUNDS) for engine in ENGINES]
    per_trial = num_requests // len(trials)
    with (
        pq.ParquetWriter(path / "requests.parquet", request_schema(), compression="zstd") as requests_file,
        pq.ParquetWriter(path / "chunks.parquet", chunk_schema(), compression="zstd") as chunks_file,
    ):
        start_ns = 0
        for engine, number in trials:
            for first in range(0, per_trial, REQUESTS_PER_GROUP):
                num = min(REQUESTS_PER_GROUP, per_trial - first)
                due = start_ns + np.arange(first, first + num) * MS
                gaps = generator.exponential(8 * MS, (num, num_chunks)).astype(np.int64)
                gaps[:, 0] += 30 * MS
                stamps = due[:, None] + gaps.cumsum(axis=1)
                ids = pa.array([f"{engine}-r{number}-{index:06d}" for index in range(first, first + num)])
                given = {
                    "request_id": ids,
                    "engine": [engine] * num,
                    "level": ["poisson 1000/s"] * num,
                    "round": [number] * num,
                    "index": np.arange(first, first + num),
                    "warmup": [False] * num,
                    "due_ns": due,
                    "sent_ns": due + 20_000,
                    "first_token_ns": stamps[:, 0],
                    "last_token_ns": stamps[:, -1],
                    "end_ns": stamps[:, -1] + 10_000,
                    "prompt_tokens": [128] * num,
                    "output_tokens": [num_chunks] * num,
                    "requested_tokens": [num_chunks] * num,
                    "status": ["ok"] * num,
                    "num_chunks": [num_chunks] * num,
                    "attempt": [1] * num,
                }
                requests_file.write_table(_table(request_schema(), given, num))
                owners = np.repeat(np.arange(num), num_chunks)
                given = {
                    "request_id": ids.take(pa.array(owners)),
                    "index": np.tile(np.arange(num_chunks), num),
                    "t_ns": stamps.ravel(),
                    "tokens": np.ones(num * num_chunks),
                    "chars": np.full(num * num_chunks, 4),
                    "coalesced": np.zeros(num * num_chunks, bool),
                }
                chunks_file.write_table(
                    _table(chunk_schema(), given, num * num_chunks), row_group_size=num * num_chunks
                )
            start_ns += per_trial * MS + 10_000 * MS
    manifest = Manifest(
        run_id="large",
        created_utc="2026-01-01T00:00:00Z",
        command=("llmbench", "run", "large"),
        status="complete",
        workload={"name": "large", "request": {"stream": True}, "measure": {"slo": {"ttft_ms": 60.0}}},
        workload_digest="0" * 64,
        prompts_digest="0" * 64,
        seeds={},
        engines=tuple(EngineManifest(label=engine, name="simulated") for engine in ENGINES),
        clock=ClockManifest(origin_ns=0, origin_utc="2026-01-01T00:00:00Z"),
        trials=tuple(
            TrialManifest(engine=engine, level="poisson 1000/s", round=number, start_ns=0, end_ns=1, requests=per_trial)
            for engine, number in trials
        ),
    )
    (path / "manifest.json").write_text(manifest.model_dump_json())


def _table(schema: pa.Schema, given: dict, num: int) -> pa.Table:
    arrays = [
        pa.array(given[field.name]).cast(field.type) if field.name in given else pa.nulls(num, field.type)
        for field in schema
    ]
    return pa.table(arrays, schema=schema)


def measure(path: Path) -> None:
    """Print seconds (by the clock, and of CPU since the process began) and the peak of memory as JSON."""
    from llmbench.reports.html import write_html
    from llmbench.results.answer import answer
    from llmbench.results.run import Run
    from llmbench.results.summary import summarise

    begun = time.perf_counter()
    run = Run.open(path)
    summarise(run)
    sentences = answer(run)
    summary_s = time.perf_counter() - begun
    summary_cpu_s = time.process_time()
    summary_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    write_html(run, path / "report.html")
    print(
        json.dumps(
            {
                "summary_s": round(summary_s, 2),
                "summary_cpu_s": round(summary_cpu_s, 2),
                "summary_peak_gib": round(summary_gib, 2),
                "with_report_s": round(time.perf_counter() - begun, 2),
                "with_report_cpu_s": round(time.process_time(), 2),
                "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
                "report_mb": round((path / "report.html").stat().st_size / 1e6, 2),
                "answer": sentences[-1],
            }
        )
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--chunks", type=int, default=100)
    parser.add_argument("--measure", type=Path)
    options = parser.parse_args()
    if options.measure is not None:
        measure(options.measure)
    else:
        with tempfile.TemporaryDirectory() as folder:
            write_run(Path(folder), options.requests, options.chunks)
            subprocess.run([sys.executable, __file__, "--measure", folder], check=True)
