"""A run as a Chrome trace: open it at https://ui.perfetto.dev or chrome://tracing. One track per request, with all its
attempts.

Source: the Trace Event Format; `X` is a slice, `C` a counter, `M` a name. Times are µs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from llmbench.results.run import Run
from llmbench.results.samples import Samples, each_samples

Event = dict[str, Any]


def write_trace(run: Run, path: Path) -> int:
    """Write every measured request of the run; returns how many events the file has."""
    samples = [each.whole.attempts for each in each_samples(run)]
    origin_ns = min((each.origin_ns for each in samples), default=0)
    num_events = 0
    with path.open("w") as file:
        file.write('{"displayTimeUnit": "ms", "traceEvents": [\n')
        for process, each in enumerate(samples, start=1):
            for event in _events(each, process, each.origin_ns - origin_ns):
                file.write(",\n" if num_events else "")
                file.write(json.dumps(event))
                num_events += 1
        file.write("\n]}\n")
    return num_events


def _events(samples: Samples, process: int, shift_ns: int) -> Iterator[Event]:
    yield _name("process_name", process, 0, f"{samples.engine}, {samples.level}")
    ids, statuses, errors = (samples.texts(name) for name in ("request_id", "status", "error"))
    stamps = {name: samples.ns(f"{name}_ns") for name in ("sent", "first_token", "last_token", "end")}
    stamps["due"] = samples.attempt_due_ns
    starts = np.searchsorted(samples.chunk_request, np.arange(len(samples) + 1))
    attempts, track = samples.counts("attempt").astype(int).tolist(), 0
    for index, (request_id, attempt) in enumerate(zip(ids, attempts, strict=True)):
        if attempt == 1:
            track += 1
            yield _name("thread_name", process, track, str(request_id))
        at = {name: float(values[index]) for name, values in stamps.items()}
        facts = {"status": statuses[index], "error": errors[index]} if errors[index] else {"status": statuses[index]}
        named = "request" if attempt == 1 else f"attempt {attempt}"
        yield from _slice(named, process, track, at["due"], at["end"], shift_ns, facts)
        yield from _slice("not sent yet", process, track, at["due"], at["sent"], shift_ns)
        yield from _slice("prefill", process, track, at["sent"], at["first_token"], shift_ns)
        before_ns, place = float("nan"), 0
        for chunk in range(starts[index], starts[index + 1]):
            tokens, t_ns = int(samples.chunk_tokens[chunk]), float(samples.chunk_ns[chunk])
            if tokens == 0:
                continue
            named = f"token {place}" if tokens == 1 else f"tokens {place}-{place + tokens - 1}"
            yield from _slice(named, process, track, before_ns, t_ns, shift_ns, {"tokens": tokens})
            before_ns, place = t_ns, place + tokens
    yield from _stream_counter(stamps, process, shift_ns)


def _stream_counter(stamps: dict[str, Any], process: int, shift_ns: int) -> Iterator[Event]:
    """How many requests wait for their first token, and how many decode, whenever either changes."""
    changes: list[tuple[float, int, int]] = []
    for sent, first, last in zip(stamps["sent"], stamps["first_token"], stamps["last_token"], strict=True):
        if not np.isnan([sent, first, last]).any():
            changes += [(sent, 1, 0), (first, -1, 1), (last, 0, -1)]
    waiting = decoding = 0
    for t_ns, more_waiting, more_decoding in sorted(changes):
        waiting, decoding = waiting + more_waiting, decoding + more_decoding
        yield {
            "ph": "C",
            "name": "requests",
            "pid": process,
            "ts": (t_ns + shift_ns) / 1e3,
            "args": {"prefill": waiting, "decode": decoding},
        }


def _slice(
    name: str,
    process: int,
    track: int,
    start_ns: float,
    end_ns: float,
    shift_ns: int,
    facts: dict[str, Any] | None = None,
) -> Iterator[Event]:
    if np.isnan(start_ns) or np.isnan(end_ns):
        return
    event = {
        "ph": "X",
        "name": name,
        "pid": process,
        "tid": track,
        "ts": (start_ns + shift_ns) / 1e3,
        "dur": max(0.0, end_ns - start_ns) / 1e3,
    }
    yield event if facts is None else {**event, "args": facts}


def _name(kind: str, process: int, track: int, name: str) -> Event:
    return {"ph": "M", "name": kind, "pid": process, "tid": track, "args": {"name": name}}
