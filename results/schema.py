"""The columns of `requests.parquet` and `chunks.parquet`: name, type, unit, meaning; stored as field metadata too."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, NamedTuple

from llmbench.results.records import ChunkRecord, RequestRecord

if TYPE_CHECKING:
    import pyarrow as pa


class Column(NamedTuple):
    """`type` is the name of an Arrow type, or list<NAME>. `nullable` columns hold null for what was not seen."""

    name: str
    type: str
    unit: str
    description: str
    nullable: bool = True


_NS = "ns on the clock of the manifest"

REQUEST_COLUMNS = (
    Column(
        "request_id", "string", "", "unique within the run; that of a later attempt ends in #2, #3, …", nullable=False
    ),
    Column("engine", "string", "", "label of the engine that was asked", nullable=False),
    Column("level", "string", "", "load level, e.g. poisson 8/s", nullable=False),
    Column("round", "int32", "", "repetition, counted from 0", nullable=False),
    Column("index", "int32", "", "place in the trial's plan, counted from 0", nullable=False),
    Column("warmup", "bool", "", "sent before the measurement and left out of every result", nullable=False),
    Column("due_ns", "int64", _NS, "when the schedule wanted the request sent, at its first attempt", nullable=False),
    Column("connect_ns", "int64", _NS, "when a connected socket was at hand, reused or new"),
    Column("sent_ns", "int64", _NS, "when the request's bytes had been handed to the kernel"),
    Column("first_byte_ns", "int64", _NS, "when the first byte of the answer was read"),
    Column("first_token_ns", "int64", _NS, "stamp of the first chunk with generated content"),
    Column("last_token_ns", "int64", _NS, "stamp of the last chunk with generated content"),
    Column("end_ns", "int64", _NS, "when the answer was complete or given up"),
    Column("prompt_tokens", "int32", "tokens", "length of the prompt"),
    Column("output_tokens", "int32", "tokens", "length of the answer"),
    Column("requested_tokens", "int32", "tokens", "length of the answer that was asked for", nullable=False),
    Column("token_source", "string", "", "where output_tokens came from"),
    Column("finish_reason", "string", "", "why the engine stopped, in its own word"),
    Column("status", "string", "", "ok or failed", nullable=False),
    Column("http_status", "int32", "", "status code of the answer"),
    Column("error_kind", "string", "", "kind of failure, from a fixed list"),
    Column("error", "string", "", "the failure in a sentence"),
    Column("output_sha256", "string", "", "sha256 of the answer's text in UTF-8, hex"),
    # Rows of schema version 1 end before these.
    Column("attempt", "int32", "", "how often the request had been sent, this time included", nullable=False),
    Column("attempt_due_ns", "int64", _NS, "when this attempt was to be sent; null where that is due_ns"),
    # Those of version 2 before these.
    Column("begun_ns", "int64", _NS, "when the load generator began to connect or, where it was connected, to send"),
    Column("population", "string", "", "who asks, where the workload mixes several populations"),
)
# Of each column that version 1 did not have, what a row without it holds.
_ADDED = {"attempt": 1, "attempt_due_ns": None, "begun_ns": None, "population": None}

# Not part of a record: it finds a request's rows in chunks.parquet without reading a single id.
NUM_CHUNKS = Column("num_chunks", "int32", "rows", "rows of this request in chunks.parquet", nullable=False)

CHUNK_COLUMNS = (
    Column("request_id", "string", "", "the request this read belongs to", nullable=False),
    Column("index", "int32", "", "place among the request's reads, counted from 0", nullable=False),
    Column("t_ns", "int64", _NS, "when it arrived, by the truest clock there was", nullable=False),
    Column("tokens", "int32", "tokens", "generated tokens in this read, possibly 0", nullable=False),
    Column("chars", "int32", "characters", "generated characters in this read, possibly 0", nullable=False),
    Column("read_ns", "int64", _NS, "when the read returned; later than t_ns by the instrument's own lag"),
    Column("coalesced", "bool", "", "several segments in one read: t_ns is the last one's", nullable=False),
)

assert tuple(column.name for column in REQUEST_COLUMNS) == tuple(field.name for field in fields(RequestRecord))
assert tuple(column.name for column in CHUNK_COLUMNS) == tuple(field.name for field in fields(ChunkRecord))

RANGES = {"int32": (-(2**31), 2**31 - 1), "int64": (-(2**63), 2**63 - 1)}


def request_schema() -> pa.Schema:
    """Rows in the order in which the requests ended."""
    return schema_of((*REQUEST_COLUMNS, NUM_CHUNKS))


def upgraded_row(row: list[Any]) -> list[Any]:
    """A request's values in the order of REQUEST_COLUMNS, of a row that may be of an older schema version."""
    missing = [column.name for column in REQUEST_COLUMNS[len(row) :]]
    return [*row, *(_ADDED[name] for name in missing)]


def upgraded_requests(table: pa.Table) -> pa.Table:
    """`requests.parquet` of any schema version with the columns of this one."""
    import pyarrow as pa

    schema = request_schema()
    if table.column_names == schema.names:
        return table
    held = {name: table.column(name) for name in table.column_names}
    missing = {name: value for name, value in _ADDED.items() if name not in held}
    held |= {name: pa.repeat(pa.scalar(value, schema.field(name).type), len(table)) for name, value in missing.items()}
    return pa.table([held[name] for name in schema.names], names=schema.names).cast(schema)


def chunk_schema() -> pa.Schema:
    """Rows grouped by request, in the order of `requests.parquet`; a request's rows are never split by a row group."""
    return schema_of(CHUNK_COLUMNS)


def schema_of(columns: tuple[Column, ...]) -> pa.Schema:
    """The Arrow schema of a table with these columns, unit and description as each field's metadata."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field(
                column.name,
                _arrow_type(column.type),
                nullable=column.nullable,
                metadata={"unit": column.unit, "description": column.description},
            )
            for column in columns
        ]
    )


def _arrow_type(name: str) -> pa.DataType:
    import pyarrow as pa

    listed = name.removeprefix("list<").removesuffix(">")
    return pa.type_for_alias(name) if listed == name else pa.list_(pa.type_for_alias(listed))
