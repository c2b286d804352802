"""The tables of a history: one row per run, one per figure of it. The same in SQLite and in PostgreSQL."""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    Column,
    Double,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

HISTORY_VERSION = 3

metadata = MetaData()

# One row. A store is upgraded when it is opened; a newer one is refused.
versions = Table("llmbench_history", metadata, Column("version", Integer, nullable=False))

# Times are ISO 8601 text in UTC, which sorts as it is meant to in both databases.
runs = Table(
    "llmbench_runs",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("run_id", String(200), nullable=False, unique=True),
    Column("created_utc", String(40), nullable=False, index=True),
    Column("name", String(200), nullable=False),
    Column("git_commit", String(64)),
    Column("fingerprint", String(12), nullable=False, index=True),
    Column("question", String(64), nullable=False, index=True),
    Column("baseline", Text, nullable=False),
    Column("note", Text, nullable=False, server_default=""),
)

# A value is null where it was infinite: too many requests failed.
figures = Table(
    "llmbench_figures",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("run", Integer, ForeignKey("llmbench_runs.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("engine", String(200), nullable=False),
    Column("level", String(200), nullable=False),
    Column("name", String(60), nullable=False, index=True),
    Column("value", Double),
    Column("log_error", Double),
    Column("freedom", Double),
    Column("n", Integer, nullable=False),
    Column("across_rounds", Boolean, nullable=False),
    UniqueConstraint("run", "engine", "level", "name"),
)

# SQL from version n to n + 1, keyed by n, in words that both databases understand.
UPGRADES = {
    1: ("ALTER TABLE llmbench_runs ADD COLUMN note TEXT NOT NULL DEFAULT ''",),
    2: ("ALTER TABLE llmbench_figures ADD COLUMN freedom DOUBLE PRECISION",),
}
