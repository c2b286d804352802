"""This machine's error budget: a workload's own schedule, asked of an engine whose true send times are known."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import JsonValue

from llmbench.harness.assemble import assemble
from llmbench.harness.instrument_error import instrument_error, summarised
from llmbench.harness.session import Outcome, run_session
from llmbench.results.manifest import CalibrationManifest, TrialManifest
from llmbench.results.run_directory import Run
from llmbench.workloads.loader import loads
from llmbench.workloads.spec import EngineSpec, WorkloadSpec

# What a level must keep to count as within budget, p99 in ms.
TTFT_BUDGET_MS = 2.0
ITL_BUDGET_MS = 1.0
SEND_LAG_BUDGET_MS = 5.0

# Arrivals per s: with answers of 1 s and 100 chunks, about as many streams at a time.
LADDER_RATES = (1, 4, 16, 64, 128, 256)
_LADDER = """
name: ladder
description: Answers of 100 chunks in about a second, more and more of them at a time.
model: simulated
prompts: {{kind: text, path: {prompts}, output_tokens: 100}}
traffic: {{duration_s: {step_s}, warmup_requests: 2, arrivals: {{kind: poisson, rate: 1}}, sweep: [{rates}]}}
"""


def calibrate(
    spec: WorkloadSpec, ttft_ms: float, itl_ms: float, draw: bool = True
) -> tuple[Outcome, tuple[CalibrationManifest, ...]]:
    """One round of the workload's schedule against the simulated engine; one entry per load level.

    The engine sends a first chunk `ttft_ms` after a request and another every `itl_ms`, one token in each. Nothing is
    left on disk. Raises what `assemble` and `run_session` raise, HarnessError when nothing was answered.
    """
    with tempfile.TemporaryDirectory(prefix="llmbench-") as name:
        log = Path(name) / "sent.jsonl"
        settings: dict[str, JsonValue] = {"ttft_ms": ttft_ms, "itl_ms": itl_ms, "log": str(log)}
        measure = spec.measure.model_copy(update={"rounds": 1})
        engines = (EngineSpec(name="simulated", settings=settings),)
        outcome = run_session(
            assemble(spec.model_copy(update={"engines": engines, "measure": measure})), Path(name) / "run", draw=draw
        )
        run = Run.open(outcome.path)
        levels = tuple(_level(run, trial, log, ttft_ms, itl_ms) for trial in run.manifest.trials)
    return outcome, levels


def ladder(folder: Path, step_s: float = 5.0, rates: Sequence[float] = LADDER_RATES) -> WorkloadSpec:
    """A workload of rising load; `folder` gets the file with its prompts."""
    prompts = folder / "prompts.txt"
    prompts.write_text("".join(f"Tell me story {number} of the sea.\n" for number in range(50)))
    listed = ", ".join(f"{rate:g}" for rate in rates)
    return loads(_LADDER.format(prompts=prompts, step_s=step_s, rates=listed))


def complaint(level: CalibrationManifest) -> str | None:
    """In which respect the instrument was beyond its error budget at this level, as a sentence; None within it."""
    send_lag = level.instrument.send_lag
    found = [
        f"p99 {name} {p99_ns / 1e6:.2f} ms (budget {limit_ms:g} ms)"
        for name, p99_ns, limit_ms in (
            ("TTFT error", level.ttft_error.p99_ns, TTFT_BUDGET_MS),
            ("ITL error", level.itl_error.p99_ns, ITL_BUDGET_MS),
            ("send lag", None if send_lag is None else send_lag.p99_ns, SEND_LAG_BUDGET_MS),
        )
        if p99_ns is not None and p99_ns > limit_ms * 1e6
    ]
    num_answers = level.num_requests - level.num_failed
    # Each answer has a first chunk, and where there are more chunks there are gaps.
    for name, error, num_owed in (
        ("TTFT error", level.ttft_error, num_answers),
        ("ITL error", level.itl_error, level.num_chunks - num_answers),
    ):
        if num_owed > 0 and not error.n:
            found.append(f"{name} not known, as the simulated engine was kept from the processor at each")
    found += [f"{level.num_lost} chunks lost"] if level.num_lost else []
    found += [f"{level.num_failed} requests failed"] if level.num_failed else []
    return f"Calibration at {level.level}: {', '.join(found)}." if found else None


def _level(run: Run, trial: TrialManifest, log: Path, ttft_ms: float, itl_ms: float) -> CalibrationManifest:
    assert trial.instrument is not None
    error = instrument_error(run, log, trial.level)
    requests = run.requests
    mine = np.asarray(requests.column("level").to_numpy(zero_copy_only=False) == trial.level)
    mine &= ~requests.column("warmup").to_numpy(zero_copy_only=False)
    num_requests = int(mine.sum())
    duration_ns = (trial.end_ns or trial.start_ns) - trial.start_ns
    cpu_s, num_chunks = trial.instrument.cpu_s, trial.instrument.num_chunks
    return CalibrationManifest(
        level=trial.level,
        ttft_ms=ttft_ms,
        itl_ms=itl_ms,
        num_requests=num_requests,
        num_failed=num_requests - error.num_answers,
        num_chunks=error.num_chunks,
        num_lost=error.num_lost,
        num_unclear=error.num_unclear,
        chunks_per_s=error.num_chunks / duration_ns * 1e9 if duration_ns else 0.0,
        ttft_error=summarised(error.ttft_ns),
        itl_error=summarised(error.itl_ns),
        itl_read_error=summarised(error.itl_read_ns),
        e2e_error=summarised(error.e2e_ns),
        instrument=trial.instrument,
        cpu_s_per_million_chunks=cpu_s / num_chunks * 1e6 if cpu_s is not None and num_chunks else None,
    )
