"""The texts that engines answered with, as far as a budget of bytes allows: `answers.parquet`.

While a run goes they lie in `answers.jsonl`, one line of JSON each, so that whatever was kept before a crash can be
read after it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from llmbench.results.schema import Column, schema_of

if TYPE_CHECKING:
    import pyarrow as pa

ANSWERS = "answers.parquet"
ANSWERS_JOURNAL = "answers.jsonl"

COLUMNS = (
    Column("request_id", "string", "", "the request in requests.parquet that was answered", nullable=False),
    Column("text", "string", "", "the whole answer", nullable=False),
)


class AnswerJournal:
    """Appends answers to `path`, which is made with the first; each survives the death of this process."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)

    def append(self, request_id: str, text: str) -> None:
        # Parquet holds UTF-8, which has no half of a surrogate pair; an engine's JSON may.
        told = text.encode("utf-8", "replace").decode()
        self._file.write(json.dumps([request_id, told], separators=(",", ":")).encode() + b"\n")

    def close(self) -> None:
        self._file.close()


def answers_schema() -> pa.Schema:
    """Rows in the order in which the answers ended."""
    return schema_of(COLUMNS)


def journalled_answers(path: Path) -> pa.Table:
    """The answers in the journal at `path`, none where there is no journal; a torn line is left out."""
    import pyarrow as pa

    rows = list(_rows(path))
    columns = list(zip(*rows, strict=True)) if rows else [() for _ in COLUMNS]
    return pa.table([pa.array(values, pa.string()) for values in columns], schema=answers_schema())


def _rows(path: Path) -> Iterator[tuple[str, str]]:
    if not path.is_file():
        return
    with path.open("rb") as lines:
        for line in lines:
            try:
                request_id, text = json.loads(line)
            except ValueError:
                continue  # a crash tore it: what is lost is a text to compare, and no measurement
            yield request_id, text
