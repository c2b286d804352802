"""Steps as a Chrome trace, for https://ui.perfetto.dev or chrome://tracing: steps, the engine's spans, the model's.

Source: the Trace Event Format; `X` is a slice, `M` a track's name. Times are µs from the first step on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from llmbench.reference_engine.profiling.step_profile import MODEL_PARTS, StepRow

TRACKS = ("steps", "engine", "model")


def write_chrome_trace(rows: Sequence[StepRow], path: Path) -> None:
    """Raises OSError if the file cannot be written."""
    path.write_text(json.dumps({"traceEvents": list(events(rows))}), encoding="utf-8")


def events(rows: Sequence[StepRow]) -> Iterator[dict[str, Any]]:
    for index, name in enumerate(TRACKS):
        yield {"ph": "M", "pid": 0, "tid": index, "name": "thread_name", "args": {"name": name}}
    origin_ns = rows[0].start_ns if rows else 0

    def slice_of(track: str, name: str, start_ns: int, end_ns: int, **args: object) -> dict[str, Any]:
        place = {"pid": 0, "tid": TRACKS.index(track), "ts": (start_ns - origin_ns) / 1e3}
        return {"ph": "X", "name": name, **place, "dur": (end_ns - start_ns) / 1e3, "args": args}

    for row in rows:
        num_bytes = sum(work.num_bytes for work in row.work.values())
        num_operations = sum(work.num_operations for work in row.work.values())
        yield slice_of("steps", row.kind, row.start_ns, row.end_ns, bytes=num_bytes, operations=num_operations)
        for span in row.spans:
            track = "model" if span.name in MODEL_PARTS else "engine"
            yield slice_of(track, span.name, span.start_ns, span.end_ns)
