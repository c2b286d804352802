"""What engines answered, as far as a budget of bytes allows: `answers.parquet`.

While a run goes they lie in `answers.jsonl`, one line of JSON each, so that whatever was kept before a crash can be
read after it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from llmbench.results.schema import Column, schema_of

if TYPE_CHECKING:
    import pyarrow as pa

ANSWERS = "answers.parquet"
ANSWERS_JOURNAL = "answers.jsonl"

COLUMNS = (
    Column("request_id", "string", "", "the request in requests.parquet that was answered", nullable=False),
    Column("text", "string", "", "the whole answer", nullable=False),
    Column("token_ids", "list<int32>", "", "ids of its tokens, as the engine told them; null where it did not"),
    Column("retokenised", "list<int32>", "", "ids that the workload's tokenizer gives the text; null without one"),
)


class KeptAnswer(NamedTuple):
    """One row."""

    request_id: str
    text: str
    token_ids: Sequence[int] | None = None
    retokenised: Sequence[int] | None = None


class AnswerJournal:
    """Appends answers to `path`, which is made with the first; each survives the death of this process."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)

    def append(self, answer: KeptAnswer) -> None:
        # Parquet holds UTF-8, which has no half of a surrogate pair; an engine's JSON may.
        told = answer._replace(text=answer.text.encode("utf-8", "replace").decode())
        self._file.write(json.dumps(told, separators=(",", ":")).encode() + b"\n")

    def close(self) -> None:
        self._file.close()


def answers_schema() -> pa.Schema:
    """Rows in the order in which the answers ended."""
    return schema_of(COLUMNS)


def answers_table(rows: Sequence[KeptAnswer]) -> pa.Table:
    import pyarrow as pa

    return pa.Table.from_pylist([row._asdict() for row in rows], schema=answers_schema())


def upgraded_answers(table: pa.Table) -> pa.Table:
    """`answers.parquet` with all columns; of runs before there were ids, null in theirs."""
    import pyarrow as pa

    schema = answers_schema()
    there = set(table.column_names)
    columns = [
        table.column(field.name) if field.name in there else pa.nulls(len(table), field.type) for field in schema
    ]
    return pa.table(columns, schema=schema)


def journalled_answers(path: Path) -> pa.Table:
    """The answers in the journal at `path`, none where there is no journal; a torn line is left out."""
    return answers_table(list(_rows(path)))


def _rows(path: Path) -> Iterator[KeptAnswer]:
    if not path.is_file():
        return
    with path.open("rb") as lines:
        for line in lines:
            try:
                yield KeptAnswer(*json.loads(line))
            except ValueError:
                continue  # a crash tore it: what is lost is a text to compare, and no measurement
