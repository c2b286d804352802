"""Recorded traffic: when real users asked, for how much. A new layout is one reader file and one line in `LAYOUTS`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import Field

from llmbench.workloads.base import MAX_TOKENS, Frozen, Text
from llmbench.workloads.errors import WorkloadError, reason_of
from llmbench.workloads.traces.azure import read_azure
from llmbench.workloads.traces.burstgpt import read_burstgpt
from llmbench.workloads.traces.mooncake import read_mooncake
from llmbench.workloads.traces.rows import TraceRow

__all__ = ["LAYOUTS", "TraceFields", "TraceLayout", "TraceRow", "read_trace"]

TraceLayout = Literal["azure", "burstgpt", "mooncake"]

# Each reads a file's rows in its order; TraceRow.time_s may count from anywhere.
LAYOUTS: Mapping[TraceLayout, Callable[[str], Iterator[TraceRow]]] = {
    "azure": read_azure,
    "burstgpt": read_burstgpt,
    "mooncake": read_mooncake,
}


class TraceFields(Frozen):
    """Which trace is meant."""

    path: Text = Field(description="The trace's file; relative to the workload.")
    layout: TraceLayout = Field(
        description="How its rows look: `azure` (AzurePublicDataset, LLM inference), `burstgpt` (BurstGPT) or "
        "`mooncake` (Mooncake's JSONL)."
    )


def read_trace(trace: TraceFields, num_requests: int) -> tuple[TraceRow, ...]:
    """The first `num_requests` rows, their times counted from the first.

    Raises WorkloadError for a file that cannot be read, with the line at fault; for rows that go back in time; and for
    a trace that has fewer rows.
    """
    try:
        status = Path(trace.path).stat()
    except (OSError, ValueError) as error:
        raise WorkloadError(f"{trace.path}: the trace cannot be read: {reason_of(error)}") from error
    return _read(trace.path, trace.layout, num_requests, status.st_mtime_ns, status.st_size)


# Prompts and arrivals ask for the same rows, in each round.
@lru_cache(maxsize=4)
def _read(path: str, layout: TraceLayout, num_requests: int, mtime_ns: int, num_bytes: int) -> tuple[TraceRow, ...]:
    try:
        # Only as far as needed: published traces have millions of rows.
        rows = list(itertools.islice(LAYOUTS[layout](path), num_requests))
    except (OSError, UnicodeDecodeError) as error:
        raise WorkloadError(f"{path}: the trace cannot be read: {reason_of(error)}") from error
    if len(rows) < num_requests:
        raise WorkloadError(
            f"{path}: the trace has {len(rows)} requests with an answer, and {num_requests} were asked for; "
            "lower traffic.requests"
        )
    for earlier, later in itertools.pairwise(rows):
        if later.time_s < earlier.time_s:
            raise WorkloadError(f"{later.where}: this request came before the one above it; sort the trace by time")
    for row in rows:
        if max(row.prompt_tokens, row.output_tokens) > MAX_TOKENS:
            raise WorkloadError(f"{row.where}: a length above {MAX_TOKENS} tokens is not one")
    start_s = rows[0].time_s
    return tuple(row.since(start_s) for row in rows)
