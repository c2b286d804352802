"""How true the load generator's stamps are: it drives the simulated engine, whose log has the true send times.

    python tests/benchmarks/load_generator.py                       256 streams of 100 chunks/s for 60 s
    python tests/benchmarks/load_generator.py --flood --streams 64  as fast as it goes
    python tests/benchmarks/load_generator.py --starve              with a busy loop on the load generator's core

The engine runs on the first of this process's cores and the load generator on the last, so that with two cores
neither waits for the other. Where other work shares them, `--realtime` (as root) puts both before it. As root the
load generator is scheduled in real time anyway and no busy loop starves it; `setpriv --bounding-set=-sys_nice
--inh-caps=-sys_nice` in front of the command keeps it from that. The error of a chunk is its stamp minus the engine's
own stamp just after the kernel had taken it, on the same clock; an ITL error is the absolute difference of two such
errors in a row. Chunks that the engine took more than 0.1 ms to send are counted and left out. The last line is JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import resource
import subprocess
import sys
import tempfile
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llmbench.engines import registry
from llmbench.engines.wire import Endpoint, GenerationRequest, Timeline
from llmbench.harness.loadgen import LoadReport, Outgoing, StopFlag, run_load
from llmbench.workloads.spec import TimeoutSpec

# One in every chunk with tokens, and in no other.
MARK = b'"choices":[{'

# An engine that was held up in the middle of a send cannot say when it sent.
MAX_SEND_NS = 100_000

Floats = npt.NDArray[np.float64]


class Seen:
    """What is kept of one answer: a stamp pair per read, and how many of the engine's chunks each carried."""

    def __init__(self, timeline: Timeline) -> None:
        self.failed = timeline.failure is not None
        self.read_ns = array("q", timeline.chunk_ns)
        try:
            self.best_ns = array("q", timeline.arrival_ns)
        except TypeError:  # not every read has one
            self.best_ns = array("q", [timeline.stamp_ns(index) for index in range(len(timeline.chunk_ns))])
        self.coalesced = bytes(timeline.coalesced)
        self.num_chunks = array("i", [body.count(MARK) for body in timeline.chunk_bytes])


def main() -> None:
    options = _options()
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        log = Path(folder) / "sent.jsonl"
        port = stack.enter_context(_engine(options, log, cores[0]))
        os.sched_setaffinity(0, {cores[-1]})
        if options.starve:
            stack.enter_context(_busy_loop(cores[-1]))
        elif options.realtime:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        report, seen = _load(options, port)
        rss_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        if options.discard:
            seconds, num_reads = (report.end_ns - report.start_ns) / 1e9, report.instrument.num_chunks
            print(
                f"{num_reads} reads in {seconds:.1f} s, CPU {report.instrument.cpu_s:.1f} s, RSS to {rss_mib:.0f} MiB"
            )
            return
        sent = {line["request_id"]: (line["began_ns"], line["sent_ns"]) for line in map(json.loads, log.open())}
    _print(options, report, seen, sent, rss_mib)


def _load(options: argparse.Namespace, port: int) -> tuple[LoadReport, dict[str, Seen]]:
    adapter = registry.get("simulated")
    endpoint = Endpoint("127.0.0.1", port)
    answer_s = 0.05 + options.tokens * options.itl_ms / 1000
    num_turns = max(1, round(options.seconds / answer_s))
    num_requests = (options.chunks or options.streams * options.tokens * num_turns) // options.tokens
    # Streams start at random within the time of one answer: together they would all be due in the same instant.
    offsets = random.Random(0)
    outgoing = []
    for index in range(num_requests):
        request = GenerationRequest(f"r{index}", "simulated", options.tokens, prompt="hello")
        turn, offset_s = index // options.streams, offsets.random() * answer_s
        due_ns = None if options.flood else round((turn * answer_s + offset_s) * 1e9)
        outgoing.append(Outgoing(request.request_id, due_ns, adapter.encode(request, endpoint)))
    seen: dict[str, Seen] = {}
    num_done = 0

    def keep(request_id: str, timeline: Timeline) -> None:
        nonlocal num_done
        num_done += 1
        if not options.discard:
            seen[request_id] = Seen(timeline)
        elif num_done % (num_requests // 10) == 0:
            resident_pages = int(Path("/proc/self/statm").read_text().split()[1])
            print(
                f"{num_done:8} of {num_requests} answers: {resident_pages * resource.getpagesize() >> 20} MiB resident"
            )

    concurrency = options.streams if options.flood else None
    report = run_load(
        outgoing, concurrency=concurrency, timeouts=TimeoutSpec(), on_done=keep, stop=StopFlag(), clock=options.clock
    )
    return report, seen


def _print(
    options: argparse.Namespace,
    report: LoadReport,
    seen: dict[str, Seen],
    sent: dict[str, tuple[list[int], list[int]]],
    rss_mib: float,
) -> None:
    instrument = report.instrument
    num_chunks = sum(sum(answer.num_chunks) for answer in seen.values())
    num_reads = sum(len(answer.num_chunks) for answer in seen.values())
    figures: dict[str, Any] = {
        "options": vars(options),
        "requests": len(seen),
        "failed": sum(answer.failed for answer in seen.values()),
        "chunks": num_chunks,
        "chunks_lost": options.tokens * len(seen) - num_chunks,
        "reads": num_reads,
        "chunks_per_s": num_chunks / (report.end_ns - report.start_ns) * 1e9,
        "cpu_s_per_million_chunks": (instrument.cpu_s or 0.0) / num_chunks * 1e6,
        "coalesced_share": (instrument.num_coalesced or 0) / num_reads,
        "max_rss_mib": rss_mib,
        "instrument": instrument.model_dump(),
    }
    for name, column in (("best", "best_ns"), ("user", "read_ns")):
        first, gap, unmarked, num_unclear = [], [], [], 0
        for request_id, answer in seen.items():
            counts = np.frombuffer(answer.num_chunks, dtype=np.int32)
            began_ns, true_ns = (np.array(stamps, dtype=np.float64) for stamps in sent[request_id])
            stamps_ns = np.repeat(np.frombuffer(getattr(answer, column), dtype=np.int64).astype(np.float64), counts)
            marked = np.repeat(np.frombuffer(answer.coalesced, dtype=np.uint8).astype(bool), counts)
            if len(stamps_ns) != len(true_ns):
                continue
            unclear = true_ns - began_ns > MAX_SEND_NS
            num_unclear += int(unclear.sum())
            errors_ns = np.abs(stamps_ns - true_ns)
            first.append(errors_ns[:1][~unclear[:1]])
            gaps_ns = np.abs(np.diff(stamps_ns - true_ns))
            gap.append(gaps_ns[~(unclear[1:] | unclear[:-1])])
            unmarked.append(gaps_ns[~(unclear[1:] | unclear[:-1] | marked[1:] | marked[:-1])])
        figures["chunks_unclear"] = num_unclear
        figures[name] = {
            "ttft_error_ms": _quantiles(np.concatenate(first)),
            "itl_error_ms": _quantiles(np.concatenate(gap)),
            "itl_error_not_coalesced_ms": _quantiles(np.concatenate(unmarked)),
        }
    for key in (
        "chunks",
        "chunks_lost",
        "chunks_unclear",
        "failed",
        "chunks_per_s",
        "cpu_s_per_million_chunks",
        "coalesced_share",
    ):
        print(f"{key:28} {figures[key]:,.4g}" if isinstance(figures[key], float) else f"{key:28} {figures[key]:,}")
    print(f"{'max_rss_mib':28} {rss_mib:.0f}")
    for name in ("best", "user"):
        for metric, values in figures[name].items():
            print(f"{name + ' ' + metric:36} " + "  ".join(f"{key} {value:.4f}" for key, value in values.items()))
    print(json.dumps(figures))


def _quantiles(values_ns: Floats) -> dict[str, float]:
    if not values_ns.size:
        return {}
    p50, p99, top = np.quantile(values_ns, (0.5, 0.99, 1.0))
    return {"n": len(values_ns), "p50": p50 / 1e6, "p99": p99 / 1e6, "max": top / 1e6}


@contextlib.contextmanager
def _engine(options: argparse.Namespace, log: Path, core: int) -> Iterator[int]:
    command = [sys.executable, "-m", "llmbench.engines.simulated_server", "--port", "0", "--log", str(log)]
    command += ["--ttft-ms", "0" if options.flood else "50", "--itl-ms", "0" if options.flood else str(options.itl_ms)]

    def place() -> None:
        os.sched_setaffinity(0, {core})
        if options.realtime:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))

    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=place)
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline().rsplit(":", 1)[1])
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def _busy_loop(core: int) -> Iterator[None]:
    process = multiprocessing.get_context("spawn").Process(target=_spin, args=(core,), daemon=True)
    process.start()
    try:
        yield
    finally:
        process.terminate()
        process.join()


def _spin(core: int) -> None:
    os.sched_setaffinity(0, {core})
    while True:
        pass


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=256)
    parser.add_argument("--itl-ms", type=float, default=10.0)
    parser.add_argument("--tokens", type=int, default=250, help="chunks per answer")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--chunks", type=int, help="in all; default what the seconds hold")
    parser.add_argument("--discard", action="store_true", help="keep nothing but counts, and watch the memory")
    parser.add_argument("--flood", action="store_true")
    parser.add_argument("--starve", action="store_true")
    parser.add_argument("--realtime", action="store_true")
    parser.add_argument("--clock", default="auto")
    return parser.parse_args()


if __name__ == "__main__":
    main()
