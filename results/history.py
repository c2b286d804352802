"""The figures of many runs in one place: a SQLite file, or a PostgreSQL database for a team.

A run's whole baseline is stored with it, so that a gate can take it from here; the figures stand in a table of their
own for trends. Needs SQLAlchemy: `pip install "llmbench[history]"`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import sqlalchemy as sql
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from llmbench.results.baseline import parse_baseline, to_json
from llmbench.results.errors import RunError
from llmbench.results.history_schema import HISTORY_VERSION, UPGRADES, figures, metadata, runs, versions
from llmbench.results.manifest import Manifest
from llmbench.results.matching import Identity, Side, side_of
from llmbench.results.run import Run
from llmbench.results.statistics import Interval
from llmbench.results.units import CONFIDENCE, student_t

# Any number will do, as long as every llmbench asks for the same: PostgreSQL's advisory lock while a store is made.
_LOCK = 4_077_251
_POSTGRESQL = "postgresql"


@dataclass(frozen=True, slots=True)
class StoredRun:
    """`fingerprint` is of the hardware, `question` of what was asked: runs that share both are comparable."""

    run_id: str
    created_utc: str
    name: str
    git_commit: str | None
    fingerprint: str
    question: str


@dataclass(frozen=True, slots=True)
class TrendPoint:
    """One figure of one run; `value` is +inf where too many requests failed, `log_error` None where not known.

    `freedom` is the degrees of freedom of that error.
    """

    run: StoredRun
    value: float
    log_error: float | None
    n: int
    freedom: float | None = None

    @property
    def interval(self) -> Interval | None:
        """The 95 % interval, None where the error is not known."""
        if self.log_error is None or not self.freedom or not 0 < self.value < math.inf:
            return None
        factor = math.exp(student_t((1 + CONFIDENCE) / 2, self.freedom) * self.log_error)
        return Interval(self.value / factor, self.value * factor)


class History:
    """A store, open, at `where` (told without a password). Several processes may write to it at once."""

    def __init__(self, engine: Engine, where: str) -> None:
        self._engine = engine
        self.where = where

    @classmethod
    def open(cls, where: str, *, make: bool = True) -> Self:
        """The store at `where`, a file's path or `postgresql://…`; made if there is none, upgraded if it is older.

        Raises RunError when it cannot be reached, or was written by a newer llmbench; unless `make`, also for a file
        that is not there.
        """
        if not make and not where.startswith(_POSTGRESQL) and not Path(where).exists():
            raise RunError(f"There is no history {where}; `llmbench history add RUN --store {where}` begins one.")
        engine = _engine(where)
        history = cls(engine, _without_password(where))
        try:
            with history._transaction(exclusive=True) as connection:
                _prepare(connection, history.where)
        except BaseException:
            history.close()
            raise
        return history

    def close(self) -> None:
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def add(self, run: Run) -> bool:
        """Store the figures of `run`; False if this run is there already. Raises RunError for one that did not end or
        is invalid: a history of such figures would be a trap for whoever reads it."""
        if run.manifest.status != "complete" or run.manifest.invalid:
            why = " ".join(run.manifest.invalid) or "it did not come to its end"
            raise RunError(f"{run.path} is not added to the history: {why}")
        side = side_of(run, run.path.resolve().name)
        try:
            with self._transaction() as connection:
                inserted = connection.execute(sql.insert(runs).values(_run_row(run.manifest, side)))
                assert inserted.inserted_primary_key is not None
                rows = _figure_rows(side, inserted.inserted_primary_key[0])
                if rows:
                    connection.execute(sql.insert(figures), rows)
        except IntegrityError:
            return False
        return True

    def runs(self) -> list[StoredRun]:
        """All runs, the oldest first."""
        with self._transaction() as connection:
            return [_stored(row) for row in connection.execute(_SELECT_RUNS.order_by(*_BY_AGE))]

    def trend(
        self, figure: str, *, engine: str, level: str, fingerprint: str | None = None, question: str | None = None
    ) -> list[TrendPoint]:
        """A figure over runs, the oldest first; of one machine and one question if they are given."""
        query = (
            sql.select(
                *_SELECT_RUNS.selected_columns,
                figures.c.value,
                figures.c.log_error,
                figures.c.n,
                figures.c.freedom,
            )
            .join_from(runs, figures, figures.c.run == runs.c.id)
            .where(figures.c.name == figure, figures.c.engine == engine, figures.c.level == level)
            .order_by(*_BY_AGE)
        )
        if fingerprint is not None:
            query = query.where(runs.c.fingerprint == fingerprint)
        if question is not None:
            query = query.where(runs.c.question == question)
        with self._transaction() as connection:
            found = connection.execute(query).all()
        return [
            TrendPoint(_stored(row), math.inf if row.value is None else row.value, row.log_error, row.n, row.freedom)
            for row in found
        ]

    def engines(self) -> list[str]:
        """The labels of all engines that have any figure."""
        with self._transaction() as connection:
            return sorted(connection.execute(sql.select(figures.c.engine).distinct()).scalars())

    def levels(self, figure: str | None = None, *, engine: str) -> list[str]:
        """The load levels at which `engine` has the figure, or any figure."""
        query = sql.select(figures.c.level).where(figures.c.engine == engine).distinct()
        if figure is not None:
            query = query.where(figures.c.name == figure)
        with self._transaction() as connection:
            return sorted(connection.execute(query).scalars())

    def names(self, *, engine: str, level: str) -> set[str]:
        """The figures of `engine` at `level`."""
        query = sql.select(figures.c.name).where(figures.c.engine == engine, figures.c.level == level).distinct()
        with self._transaction() as connection:
            return set(connection.execute(query).scalars())

    def hardware(self, fingerprint: str) -> Mapping[str, object]:
        """What a fingerprint stands for, as the newest run on it says; empty for one that is not known."""
        query = sql.select(runs.c.baseline).where(runs.c.fingerprint == fingerprint)
        with self._transaction() as connection:
            text = connection.execute(query.order_by(*(column.desc() for column in _BY_AGE)).limit(1)).scalar()
        return {} if text is None else parse_baseline(text, self.where).identity.hardware

    def latest_like(self, identity: Identity, *, but: str | None = None) -> Side | None:
        """The newest run on the same hardware that asked the same, other than the one with the id `but`; None if there
        is none."""
        query = (
            sql.select(runs.c.baseline)
            .where(runs.c.fingerprint == identity.fingerprint, runs.c.question == question_of(identity))
            .order_by(runs.c.created_utc.desc(), runs.c.id.desc())
            .limit(1)
        )
        if but is not None:
            query = query.where(runs.c.run_id != but)
        with self._transaction() as connection:
            text = connection.execute(query).scalar()
        return None if text is None else parse_baseline(text, self.where)

    @contextmanager
    def _transaction(self, *, exclusive: bool = False) -> Iterator[Connection]:
        try:
            with self._engine.begin() as connection:
                if exclusive and self._engine.dialect.name == "postgresql":
                    connection.execute(sql.select(sql.func.pg_advisory_xact_lock(_LOCK)))
                yield connection
        except IntegrityError:
            raise
        except SQLAlchemyError as error:
            cause = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
            raise RunError(f"The history {self.where} cannot be used: {cause}.") from error


def question_of(identity: Identity) -> str:
    """SHA-256 of what was asked, as hex: equal for runs whose figures may be compared."""
    canonical = json.dumps(dict(identity.workload), sort_keys=True, default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()


_SELECT_RUNS = sql.select(
    runs.c.run_id, runs.c.created_utc, runs.c.name, runs.c.git_commit, runs.c.fingerprint, runs.c.question
)
_BY_AGE = (runs.c.created_utc, runs.c.id)


def _engine(where: str) -> Engine:
    if not where.startswith(_POSTGRESQL):
        path = Path(where)
        if not path.parent.is_dir():
            raise RunError(f"The history {where} cannot be made: {path.parent} is no folder.")
        engine = sql.create_engine(f"sqlite:///{path}", connect_args={"timeout": 60})
        sql.event.listen(engine, "connect", _sqlite_settings)
        # SQLite's own BEGIN takes the write lock late, and two writers that both read first would block each other.
        sql.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
        return engine
    try:
        return sql.create_engine(where.replace("postgresql://", "postgresql+psycopg://", 1))
    except ModuleNotFoundError:
        raise RunError('PostgreSQL needs psycopg, which is not installed: pip install "llmbench[postgresql]"') from None
    except SQLAlchemyError as error:
        raise RunError(f"{_without_password(where)} is no address of a database: {error}.") from None


def _sqlite_settings(connection: DBAPIConnection, _record: object) -> None:
    # Else the driver begins transactions of its own.
    connection.isolation_level = None
    connection.cursor().execute("PRAGMA foreign_keys=ON")


def _prepare(connection: Connection, where: str) -> None:
    metadata.create_all(connection, tables=[versions])
    version = connection.execute(sql.select(versions.c.version)).scalar()
    if version is None:
        metadata.create_all(connection)
        connection.execute(sql.insert(versions).values(version=HISTORY_VERSION))
        return
    if version > HISTORY_VERSION:
        raise RunError(
            f"The history {where} has version {version}, and this llmbench reads versions up to {HISTORY_VERSION}. "
            "Install a newer one: pip install --upgrade llmbench."
        )
    while version < HISTORY_VERSION:
        for statement in UPGRADES[version]:
            connection.execute(sql.text(statement))
        version += 1
        if version == 3:
            _fill_freedom(connection, where)
    connection.execute(sql.update(versions).values(version=version))


def _fill_freedom(connection: Connection, where: str) -> None:
    """Version 3 keeps the freedom of each figure's error, which older ones kept in the stored baseline alone."""
    statement = (
        sql.update(figures)
        .where(*(figures.c[name] == sql.bindparam(f"its_{name}") for name in ("run", "engine", "level", "name")))
        .values(freedom=sql.bindparam("its_freedom"))
    )
    for run, text in connection.execute(sql.select(runs.c.id, runs.c.baseline)).all():
        rows = [
            {f"its_{name}": row[name] for name in ("run", "engine", "level", "name", "freedom")}
            for row in _figure_rows(parse_baseline(text, where), run)
        ]
        if rows:
            connection.execute(statement, rows)


def _run_row(manifest: Manifest, side: Side) -> dict[str, object]:
    git = manifest.environment.get("git")
    commit = git.get("commit") if isinstance(git, dict) else None
    return {
        "run_id": manifest.run_id,
        "created_utc": manifest.created_utc,
        "name": str(manifest.workload.get("name", "")),
        "git_commit": commit if isinstance(commit, str) else None,
        "fingerprint": side.identity.fingerprint,
        "question": question_of(side.identity),
        "baseline": to_json(side),
    }


def _figure_rows(side: Side, run: int) -> list[dict[str, object]]:
    return [
        {
            "run": run,
            "engine": measured.engine,
            "level": measured.level,
            "name": name,
            "value": figure.value if math.isfinite(figure.value) else None,
            "log_error": figure.log_error,
            "freedom": figure.freedom,
            "n": figure.n,
            "across_rounds": figure.across_rounds,
        }
        for measured in side.measured
        for name, figure in measured.figures.items()
    ]


def _stored(row: sql.Row) -> StoredRun:  # type: ignore[type-arg]
    return StoredRun(row.run_id, row.created_utc, row.name, row.git_commit, row.fingerprint, row.question)


def _without_password(where: str) -> str:
    head, separator, rest = where.partition("://")
    if not separator or "@" not in rest:
        return where
    user = rest.rpartition("@")[0].partition(":")[0]
    return f"{head}://{user}@{rest.rpartition('@')[2]}"
