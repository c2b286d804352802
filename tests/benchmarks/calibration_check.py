"""Whether what `llmbench calibrate` states holds for a server that shares no code with the one it calibrates on.

    python tests/benchmarks/calibration_check.py

The same schedule goes to the bundled simulated engine, which gives the stated error, and to a second server with a log
of its own (tests/support/independent_server.py), which gives the error as it is. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from llmbench.harness.assemble import assemble
from llmbench.harness.calibration import calibrate
from llmbench.harness.instrument_error import instrument_error, summarised
from llmbench.harness.session import run_session
from llmbench.results.manifest import LagManifest
from llmbench.results.run_directory import Run
from llmbench.workloads.loader import loads

SERVER = Path(__file__).parent.parent / "support" / "independent_server.py"
WORKLOAD = """
name: calibration_check
model: simulated
engines: [{{openai: {{url: "http://127.0.0.1:{port}"}}}}]
prompts: {{kind: text, path: {prompts}, output_tokens: {tokens}}}
traffic: {{requests: {requests}, warmup_requests: 2, arrivals: {{kind: poisson, rate: {rate}}}}}
"""


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prompts, log = folder / "prompts.txt", folder / "sent.jsonl"
        prompts.write_text("".join(f"Tell me story {number} of the sea.\n" for number in range(50)))
        command = [sys.executable, str(SERVER), "0", str(log), str(options.ttft_ms), str(options.itl_ms)]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        try:
            port = int(server.stdout.readline().split()[-1])
            spec = loads(WORKLOAD.format(**vars(options), port=port, prompts=prompts))
            run = Run.open(run_session(assemble(spec), folder / "run").path)
            seen = instrument_error(run, log)
        finally:
            server.terminate()
            server.wait()
        _, [stated] = calibrate(spec, options.ttft_ms, options.itl_ms)
    pairs = {
        "ttft_error_ms": (stated.ttft_error, summarised(seen.ttft_ns)),
        "itl_error_ms": (stated.itl_error, summarised(seen.itl_ns)),
        "e2e_error_ms": (stated.e2e_error, summarised(seen.e2e_ns)),
    }
    figures = {
        name: {"stated": _ms(calibrated), "seen": _ms(real), "stated_maximum_holds_p99": _holds(calibrated, real)}
        for name, (calibrated, real) in pairs.items()
    }
    for name, row in figures.items():
        for source in ("stated", "seen"):
            print(f"{name:14} {source:7} " + "  ".join(f"{key} {value}" for key, value in row[source].items()))
    print(json.dumps(figures))


def _holds(stated: LagManifest, seen: LagManifest) -> bool:
    assert stated.max_ns is not None
    assert seen.p99_ns is not None
    return seen.p99_ns <= stated.max_ns


def _ms(lag: LagManifest) -> dict[str, float | int | None]:
    stamps = {"p50": lag.p50_ns, "p99": lag.p99_ns, "max": lag.max_ns}
    return {"n": lag.n} | {name: None if ns is None else round(ns / 1e6, 4) for name, ns in stamps.items()}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=200, help="default 200")
    parser.add_argument("--rate", type=float, default=20.0, help="requests per second; default 20")
    parser.add_argument("--tokens", type=int, default=50, help="per answer; default 50")
    parser.add_argument("--ttft-ms", type=float, default=20.0, help="default 20")
    parser.add_argument("--itl-ms", type=float, default=5.0, help="default 5")
    return parser.parse_args()


if __name__ == "__main__":
    main()
