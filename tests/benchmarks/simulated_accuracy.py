"""How true a whole run is: 200 requests, Poisson 50/s, against the simulated engine, whose log has the true send times.

    python tests/benchmarks/simulated_accuracy.py

It is `llmbench run` with everything it brings along: the recorder's process, the journal, the guard. Printed are the
figures of the run directory, so of what a user gets to see. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

from llmbench.harness.assemble import assemble
from llmbench.harness.instrument_error import instrument_error, summarised
from llmbench.harness.session import run_session
from llmbench.results.manifest import LagManifest
from llmbench.results.run_directory import Run
from llmbench.workloads.loader import loads

WORKLOAD = """
name: simulated_accuracy
model: simulated
engines: [{{simulated: {{settings: {{ttft_ms: {ttft_ms}, itl_ms: {itl_ms}, log: {log}}}}}}}]
prompts: {{kind: text, path: {prompts}, output_tokens: {tokens}}}
traffic: {{requests: {requests}, warmup_requests: 2, arrivals: {{kind: poisson, rate: {rate}}}}}
"""


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prompts, log = folder / "prompts.txt", folder / "sent.jsonl"
        prompts.write_text("".join(f"Tell me story {number} of the sea.\n" for number in range(50)))
        workload = WORKLOAD.format(**vars(options), prompts=prompts, log=log)
        outcome = run_session(assemble(loads(workload)), folder / "run")
        run = Run.open(outcome.path)
        requests = run.requests.filter(~np.asarray(run.requests.column("warmup")))
        counts = requests.column("output_tokens").to_pylist()
        error = instrument_error(run, log)
        sent_late_ns = requests.column("sent_ns").to_numpy() - requests.column("due_ns").to_numpy()
        [trial] = run.manifest.trials
    figures = {
        "requests": len(counts),
        "failed": requests.column("status").to_pylist().count("failed"),
        "wrong_token_counts": sum(count != options.tokens for count in counts),
        "chunks": error.num_chunks,
        "chunks_lost": error.num_lost,
        "chunks_of_unclear_truth": error.num_unclear,
        "sent_minus_due_ms": _ms(summarised(sent_late_ns)),
        "ttft_error_ms": _ms(summarised(error.ttft_ns)),
        "itl_error_ms": _ms(summarised(error.itl_ns)),
        "itl_error_user_space_ms": _ms(summarised(error.itl_read_ns)),
        "e2e_error_ms": _ms(summarised(error.e2e_ns)),
        "clock": trial.instrument.clock if trial.instrument else None,
        "outcome": outcome.message or "valid",
    }
    for name, value in figures.items():
        shown = "  ".join(f"{key} {part}" for key, part in value.items()) if isinstance(value, dict) else value
        print(f"{name:26} {shown}")
    print(json.dumps(figures))


def _ms(lag: LagManifest) -> dict[str, float | int | None]:
    stamps = {"p50": lag.p50_ns, "p99": lag.p99_ns, "max": lag.max_ns}
    return {"n": lag.n} | {name: None if ns is None else round(ns / 1e6, 4) for name, ns in stamps.items()}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=200, help="default 200")
    parser.add_argument("--rate", type=float, default=50.0, help="requests per second; default 50")
    parser.add_argument("--tokens", type=int, default=50, help="per answer; default 50")
    parser.add_argument("--ttft-ms", type=float, default=20.0, help="default 20")
    parser.add_argument("--itl-ms", type=float, default=5.0, help="default 5")
    return parser.parse_args()


if __name__ == "__main__":
    main()
