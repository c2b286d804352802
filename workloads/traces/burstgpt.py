"""BurstGPT: ChatGPT and GPT-4 traffic of a campus (arXiv:2401.17644), https://github.com/HPMLL/BurstGPT."""

from __future__ import annotations

from collections.abc import Iterator

from llmbench.workloads.traces.rows import TraceRow, csv_rows, finite, whole

COLUMNS = ("Timestamp", "Request tokens", "Response tokens")


def read_burstgpt(path: str) -> Iterator[TraceRow]:
    """The requests of a CSV with `Timestamp` in s, `Request tokens` and `Response tokens`, further columns ignored.

    The trace marks a failed request by 0 response tokens; such rows are left out.
    """
    for where, fields in csv_rows(path, COLUMNS):
        prompt, output = (whole(where, column, fields[column]) for column in COLUMNS[1:])
        if prompt and output:
            yield TraceRow(where, finite(where, "Timestamp", fields["Timestamp"]), prompt, output)
