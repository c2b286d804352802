"""The journal of a run under way: one line of JSON per request, with its chunks, readable after any crash."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import fields
from itertools import islice
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmbench.results.errors import RunError
from llmbench.results.records import ChunkRecord, RequestRecord
from llmbench.results.schema import (
    CHUNK_COLUMNS,
    RANGES,
    REQUEST_COLUMNS,
    Column,
    chunk_schema,
    request_schema,
    upgraded_row,
)

if TYPE_CHECKING:
    import pyarrow as pa

JOURNAL = "journal.jsonl"

_request_values = attrgetter(*(field.name for field in fields(RequestRecord)))
# The request's id is in its own row already.
_CHUNK_FIELDS = CHUNK_COLUMNS[1:]
_chunk_values = attrgetter(*(column.name for column in _CHUNK_FIELDS))


class Journal:
    """Appends entries to `path`. An appended entry survives the death of this process, as the kernel has it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("xb", buffering=0)
        self._size = 0

    def append(self, request: RequestRecord, chunks: Sequence[ChunkRecord]) -> None:
        """Store one request. A number that its column cannot hold, such as a server's absurd token count, becomes null;
        where the column must not be null, RunError says so and nothing is stored."""
        row = [_fitting(value, column) for value, column in zip(_request_values(request), REQUEST_COLUMNS, strict=True)]
        columns = [
            [_fitting(value, column) for value in values]
            for values, column in zip(zip(*map(_chunk_values, chunks), strict=True), _CHUNK_FIELDS, strict=False)
        ]
        line = json.dumps([row, columns], separators=(",", ":"))
        self._write(line.encode() + b"\n")

    def close(self) -> None:
        self._file.close()

    def _write(self, line: bytes) -> None:
        written = 0
        try:
            # One write as a rule: a reader sees the whole line or, after a crash, a torn last one that it leaves out.
            while written < len(line):
                written += self._file.write(line[written:])
        except OSError as error:
            # A full disk takes half a line, and a later one must not go on where it ends.
            os.ftruncate(self._file.fileno(), self._size)
            self._file.seek(self._size)
            raise RunError(f"{self._path} cannot take another request: {error.strerror}.") from error
        self._size += len(line)


def read_batches(path: Path, size: int = 4_000) -> Iterator[tuple[pa.Table, pa.Table]]:
    """(requests, chunks) for `size` entries at a time, in the order they were stored; a torn last line is left out."""
    with path.open("rb") as file:
        entries = _entries(file, path)
        while batch := list(islice(entries, size)):
            yield _tables(batch)


def _entries(lines: Iterator[bytes], path: Path) -> Iterator[list[Any]]:
    for number, line in enumerate(lines, start=1):
        if not line.endswith(b"\n"):
            return
        try:
            entry = json.loads(line)
        except ValueError:
            raise RunError(f"{path}:{number} is not JSON; take that line out to read the others.") from None
        yield entry


def _tables(entries: Sequence[list[Any]]) -> tuple[pa.Table, pa.Table]:
    import pyarrow as pa

    rows = [[*upgraded_row(row), len(columns[0]) if columns else 0] for row, columns in entries]
    requests = pa.table(
        [pa.array(values, field.type) for values, field in zip(zip(*rows, strict=True), request_schema(), strict=True)],
        schema=request_schema(),
    )
    ids: list[str] = []
    values: list[list[Any]] = [[] for _ in _CHUNK_FIELDS]
    for row, columns in entries:
        if columns:
            ids += [row[0]] * len(columns[0])
            for whole, part in zip(values, columns, strict=True):
                whole += part
    arrays = [pa.array(column, field.type) for column, field in zip([ids, *values], chunk_schema(), strict=True)]
    return requests, pa.table(arrays, schema=chunk_schema())


def _fitting(value: Any, column: Column) -> Any:
    if isinstance(value, str):
        # Parquet holds UTF-8, which has no half of a surrogate pair; an engine's JSON may.
        return value.encode("utf-8", "replace").decode()
    limits = RANGES.get(column.type)
    if value is None or limits is None or limits[0] <= value <= limits[1]:
        return value
    if not column.nullable:
        raise RunError(f"{column.name} = {value} does not fit its column ({column.type}).")
    return None
