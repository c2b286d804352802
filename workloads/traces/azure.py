"""Azure LLM inference traces, 2023 and 2024: https://github.com/Azure/AzurePublicDataset."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from llmbench.workloads.errors import WorkloadError, shorten
from llmbench.workloads.traces.rows import TraceRow, csv_rows, whole

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")


def read_azure(path: str) -> Iterator[TraceRow]:
    """The requests of a CSV with `TIMESTAMP,ContextTokens,GeneratedTokens`; those without an answer are left out."""
    for where, fields in csv_rows(path, COLUMNS):
        prompt, output = (whole(where, column, fields[column]) for column in COLUMNS[1:])
        if prompt and output:
            yield TraceRow(where, _time_s(where, fields["TIMESTAMP"]), prompt, output)


def _time_s(where: str, text: str) -> float:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        problem = f"given {shorten(text)}, allowed: a time such as 2023-11-16 18:17:03.9799600"
        raise WorkloadError(f"{where}: TIMESTAMP: {problem}") from None
    # The 2023 files name no time zone, the 2024 ones UTC; only differences matter.
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
