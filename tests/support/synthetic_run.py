"""A run as a load test would leave it: seeded queueing, prefill and decode times, failures, two engines, rounds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmbench.results.manifest import (
    ArrivalManifest,
    CalibrationManifest,
    ClockManifest,
    EngineManifest,
    InstrumentManifest,
    LagManifest,
    Manifest,
    TrialManifest,
)
from llmbench.results.records import ChunkRecord, RequestRecord
from llmbench.results.run import Run
from llmbench.results.run_directory import RunDirectory

ORIGIN_NS = 86_400_000_000_000
MS = 1e6


@dataclass(frozen=True)
class FakeEngine:
    """How an engine behaves: `num_slots` requests at a time, then a prefill, then a token every `itl_ms`."""

    label: str
    prefill_ms: float = 40.0
    itl_ms: float = 9.0
    num_slots: int = 8
    tokens_per_chunk: int = 1
    fails: float = 0.0
    error: str = "HTTP 500: CUDA error: out of memory"


ALPHA = FakeEngine("alpha")
BETA = FakeEngine("beta", prefill_ms=70, itl_ms=13, num_slots=6, fails=0.03)


def write_run(
    path: Path,
    engines: tuple[FakeEngine, ...] = (ALPHA, BETA),
    rates: tuple[float, ...] = (8.0,),
    num_requests: int = 64,
    num_tokens: int = 32,
    rounds: int = 3,
    slo: dict[str, float] | None = None,
    finish: bool = True,
    **changes: Any,
) -> Run:
    """The run at `path`, opened. Requests arrive at random with each of `rates` per second."""
    clock_ns = ORIGIN_NS
    trials = []
    entries = []
    for level_index, rate in enumerate(rates):
        for number in range(rounds):
            due_s = np.cumsum(np.random.default_rng([level_index, number]).exponential(1 / rate, num_requests))
            for engine_index, engine in enumerate(engines):
                rng = np.random.default_rng([level_index, number, engine_index])
                level = f"poisson {rate:g}/s"
                answered = list(_answers(rng, engine, level, number, clock_ns + due_s * 1e9, num_tokens))
                entries += answered
                end_ns = max(request.end_ns or 0 for request, _ in answered) + 50_000_000
                trials.append(_trial(engine.label, level, number, clock_ns, end_ns, num_requests, rng))
                clock_ns = end_ns + 500_000_000
    fields: dict[str, Any] = {
        "run_id": "20260304-050607-mixed-1a2b3c4d",
        "created_utc": "2026-03-04T05:06:07Z",
        "command": ("llmbench", "run", "mixed", "--set", f"traffic.arrivals.rate={rates[0]:g}"),
        "workload": _workload(rates, num_requests, rounds, slo),
        "workload_digest": "ab12" * 16,
        "prompts_digest": "cd34" * 16,
        "seeds": {"prompts": 0, "schedule": 0},
        "engines": tuple(
            EngineManifest(
                label=engine.label,
                name="simulated",
                version="1.2.3",
                command=("python", "-m", "simulated", "--itl-ms", f"{engine.itl_ms:g}"),
                url="http://127.0.0.1:41234",
                pid=4321,
                model="synthetic:llama-20m",
                model_digest="ef56" * 16,
                log="logs/engine.log",
                details={"dtype": "float32", "device": "cpu"},
            )
            for engine in engines
        ),
        "environment": {
            "cpu": {"model": "Example CPU @ 2.80GHz", "cores": 8, "governor": None},
            "memory_bytes": 33_554_432_000,
            "os": "Linux 6.1.0",
            "python": "3.11.9",
            "packages": {"numpy": "2.4.6", "torch": "2.9.0"},
            "git": {"commit": "0123456789abcdef", "dirty": False},
        },
        "clock": ClockManifest(origin_ns=ORIGIN_NS, origin_utc="2026-03-04T05:06:07Z", resolution_ns=1),
        "trials": tuple(trials),
        "calibration": tuple(_calibration(f"poisson {rate:g}/s", rate) for rate in rates),
    }
    problems = changes.pop("problems", ())
    status = changes.pop("status", "complete")
    directory = RunDirectory.create(path, Manifest(**(fields | changes)))
    for request, chunks in entries:
        directory.append(request, chunks)
    if finish:
        directory.finish(status, problems=problems)
    return Run.open(path)


def _answers(
    rng: np.random.Generator, engine: FakeEngine, level: str, number: int, due_ns: Any, num_tokens: int
) -> Iterator[tuple[RequestRecord, list[ChunkRecord]]]:
    free_ns = np.full(engine.num_slots, float(due_ns[0]))
    for index, due in enumerate(due_ns):
        slot = int(free_ns.argmin())
        sent = due + rng.exponential(0.2) * MS
        admitted = max(sent, free_ns[slot])
        tokens = int(rng.integers(num_tokens // 2, num_tokens + 1))
        first = admitted + engine.prefill_ms * rng.lognormal(0, 0.25) * MS
        gaps = engine.itl_ms * rng.lognormal(0, 0.2, max(0, tokens - 1)) * MS
        gaps[rng.random(len(gaps)) < 0.01] *= 8
        stamps = first + np.concatenate([[0.0], np.cumsum(gaps)])
        failed = rng.random() < engine.fails
        if failed:
            stamps = stamps[: rng.integers(0, 4)]
        end = (stamps[-1] if len(stamps) else admitted) + 0.3 * MS
        free_ns[slot] = end
        yield _records(engine, level, number, index, failed, tokens, (due, sent, end), stamps)


def _records(
    engine: FakeEngine,
    level: str,
    number: int,
    index: int,
    failed: bool,
    tokens: int,
    times_ns: tuple[float, float, float],
    stamps: Any,
) -> tuple[RequestRecord, list[ChunkRecord]]:
    due, sent, end = (int(time) for time in times_ns)
    burst = engine.tokens_per_chunk
    reads = [int(stamp) for stamp in stamps[burst - 1 :: burst]] if burst > 1 else [int(stamp) for stamp in stamps]
    request_id = f"{hash_free(engine.label)}-{hash_free(level)}-r{number}-{index:05d}"
    chunks = [ChunkRecord(request_id, place, at, burst, 4 * burst) for place, at in enumerate(reads)]
    record = RequestRecord(
        request_id=request_id,
        engine=engine.label,
        level=level,
        round=number,
        index=index,
        warmup=False,
        due_ns=due,
        connect_ns=due,
        sent_ns=sent,
        first_byte_ns=reads[0] if reads else None,
        first_token_ns=reads[0] if reads else None,
        last_token_ns=reads[-1] if reads else None,
        end_ns=end,
        prompt_tokens=128,
        output_tokens=burst * len(reads) if reads else None,
        requested_tokens=tokens,
        token_source="token_ids",
        finish_reason=None if failed else "length",
        status="failed" if failed else "ok",
        http_status=500 if failed else 200,
        error_kind="server_error" if failed else None,
        error=engine.error if failed else None,
        output_sha256=None if failed else "0" * 64,
    )
    return record, chunks


def hash_free(text: str) -> str:
    """Letters and digits of `text`, as request ids have them."""
    return "".join(character if character.isalnum() and character.isascii() else "-" for character in text)


def _trial(
    engine: str, level: str, number: int, start_ns: int, end_ns: int, num_requests: int, rng: np.random.Generator
) -> TrialManifest:
    def lag(p50_ms: float) -> LagManifest:
        p50 = int(p50_ms * MS * rng.uniform(0.8, 1.2))
        return LagManifest(n=num_requests, p50_ns=p50, p99_ns=6 * p50, max_ns=11 * p50)

    instrument = InstrumentManifest(
        event_loop="uvloop",
        loop_lag=lag(0.08),
        send_lag=lag(0.15),
        client_lag=lag(0.03),
        num_chunks=num_requests * 24,
        num_coalesced=17,
        cpu_s=0.11 * (end_ns - start_ns) / 1e9,
    )
    return TrialManifest(
        engine=engine,
        level=level,
        round=number,
        start_ns=start_ns,
        end_ns=end_ns,
        requests=num_requests,
        instrument=instrument,
        arrivals=ArrivalManifest(
            n=num_requests, asked_rate=8.0, rate=8.1, rate_p=0.7, gap_cv=1.02, asked_gap_cv=1.0, ks=0.05, ks_p=0.4
        ),
    )


def _calibration(level: str, rate: float) -> CalibrationManifest:
    def error(p50_ms: float) -> LagManifest:
        return LagManifest(n=2000, p50_ns=int(p50_ms * MS), p99_ns=int(5 * p50_ms * MS), max_ns=int(9 * p50_ms * MS))

    return CalibrationManifest(
        level=level,
        ttft_ms=40.0,
        itl_ms=9.0,
        num_requests=64,
        num_failed=0,
        num_chunks=2000,
        num_lost=0,
        num_unclear=3,
        chunks_per_s=110 * rate,
        ttft_error=error(0.06),
        itl_error=error(0.02),
        itl_read_error=error(0.11),
        e2e_error=error(0.07),
        instrument=InstrumentManifest(event_loop="uvloop"),
    )


def _workload(rates: tuple[float, ...], num_requests: int, rounds: int, slo: dict[str, float] | None) -> dict[str, Any]:
    return {
        "name": "mixed",
        "description": "Short and long prompts together.",
        "model": "synthetic:llama-20m",
        "request": {"api": "completions", "stream": True, "temperature": 0.0},
        "traffic": {"requests": num_requests, "arrivals": {"kind": "poisson", "rate": rates[0]}},
        "measure": {"rounds": rounds, "slo": {"ttft_ms": None, "tpot_ms": None, "e2e_ms": None} | (slo or {})},
    }
