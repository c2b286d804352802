"""What one engine was asked at one load level, as numpy columns: the input of every metric and picture."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmbench.results.ahead import ahead
from llmbench.results.attempts import are_last, rows_of_attempts
from llmbench.results.run import Run
from llmbench.results.units import Floats as Floats
from llmbench.results.units import Ints as Ints
from llmbench.results.units import Units, units_of
from llmbench.results.window import Rules, Window, window_of

if TYPE_CHECKING:
    import pyarrow as pa

    from llmbench.results.gaps import ChunkGaps

Bools = NDArray[np.bool_]
NUM_STRETCHES = 20


class Piece(NamedTuple):
    """Stamped reads of some of a sample's requests, grouped by request. `request` is the index into the sample's
    request columns each belongs to; `ns` counts from its origin."""

    request: Ints
    ns: Floats
    tokens: Ints
    chars: Ints

    def where(self, chosen: Bools) -> Piece:
        """The reads for which `chosen` holds."""
        return Piece(self.request[chosen], self.ns[chosen], self.tokens[chosen], self.chars[chosen])


@dataclass(frozen=True, eq=False)
class Samples:
    """The requests of one engine at one level that count, in the order in which they were due: those due inside the
    window of their round, the rest and the requests sent to warm up left out. `whole` has them all.

    A request that was sent more than once is here with its last attempt; `attempts` has them all.

    Times are float64 ns since `origin_ns`, exact for 104 days, NaN where there is no stamp. The chunk columns hold the
    stamped reads of these requests, grouped by request; `chunk_request` is each read's index into the request columns.
    They take 32 bytes per read: what can do with a part at a time asks for `pieces`.
    """

    run: Run
    engine: str
    level: str
    origin_ns: int
    _members: Ints  # rows of run.requests, in due order
    _rows: pa.Table  # those rows
    _whole: Samples | None = None

    def __len__(self) -> int:
        return len(self._members)

    def ns(self, column: str) -> Floats:
        """A stamp of every request, e.g. `ns("sent_ns")`."""
        return self._floats(column) - self.origin_ns

    def counts(self, column: str) -> Floats:
        """A count of every request, e.g. `counts("output_tokens")`; NaN where nobody gave one."""
        return self._floats(column)

    def texts(self, column: str) -> list[str | None]:
        """A text of every request, e.g. `texts("error_kind")`."""
        texts: list[str | None] = self._rows.column(column).to_pylist()
        return texts

    @cached_property
    def keys(self) -> list[tuple[int, int]]:
        """(round, index) of every request: what tells the same question to another engine."""
        index = self._rows.column("index").to_pylist()
        return list(zip(self.round.tolist(), index, strict=True))

    @cached_property
    def ok(self) -> Bools:
        import pyarrow.compute as pc

        return np.asarray(pc.equal(self._rows.column("status"), "ok"))

    @cached_property
    def round(self) -> Ints:
        return self._floats("round").astype(np.int64)

    @property
    def whole(self) -> Samples:
        """These requests and those due outside the windows."""
        return self if self._whole is None else self._whole

    @cached_property
    def attempts(self) -> Samples:
        """Every attempt of these requests, those of one request behind each other; itself where all had one."""
        members = rows_of_attempts(self.run.requests, self._members)
        if len(members) == len(self):
            return self
        rows = self.run.requests.take(members)
        return Samples(self.run, self.engine, self.level, self.origin_ns, members, rows, self.whole)

    @cached_property
    def attempt_due_ns(self) -> Floats:
        """When each was to be sent; of a request's first attempt, when the request was due."""
        later = self.ns("attempt_due_ns")
        due_ns: Floats = np.where(np.isnan(later), self.ns("due_ns"), later)
        return due_ns

    @cached_property
    def windows(self) -> dict[int, Window]:
        """The window of each round, in ascending order of rounds; its stamps are ns since `origin_ns`."""
        if self._whole is not None:
            return self._whole.windows
        rules, due_ns, end_ns = Rules.of(self.run.manifest.workload), self.ns("due_ns"), self.ns("end_ns")
        windows = {}
        for number in np.unique(self.round).tolist():
            members = self.round == number
            windows[number] = window_of(due_ns[members], end_ns[members], self.ok[members], rules)
        return windows

    def in_window(self, stamps_ns: Floats, request: Ints | None = None) -> Bools:
        """Which of `stamps_ns` lie in the window of their request's round; `request` is the index of the request each
        belongs to, one for each request if it is left out."""
        round_of = self.round if request is None else self.round[request]
        inside = np.ones(len(stamps_ns), bool)
        for number, window in self.windows.items():
            members = round_of == number
            inside[members] = window.holds(stamps_ns[members])
        return inside

    @cached_property
    def num_rounds(self) -> int:
        return int(np.count_nonzero(np.bincount(self.round)))

    @cached_property
    def units(self) -> Units:
        """The independent parts of this measurement."""
        return units_of(self.round)

    @cached_property
    def num_chunks(self) -> int:
        return int(self._floats("num_chunks").sum())

    def pieces(self, members: Ints | None = None) -> Iterator[Piece]:
        """The stamped reads, some requests at a time; of the requests with the indices `members` (default: all)."""
        return ahead(self._pieces(members))

    def _pieces(self, members: Ints | None) -> Generator[Piece, None, None]:
        wanted = np.arange(len(self)) if members is None else members
        place = np.full(self.run.requests.num_rows, -1)
        place[self._members[wanted]] = wanted
        lengths = self.run.requests.column("num_chunks").to_numpy()
        for held, table in self.run.chunk_pieces(("t_ns", "tokens", "chars"), place >= 0):
            rows = slice(held.start, held.stop)
            request = np.repeat(place[rows], lengths[rows])
            mine = request >= 0
            ns, tokens, chars = (
                table.column(name).to_numpy()[mine].astype(np.int64) for name in ("t_ns", "tokens", "chars")
            )
            yield Piece(request[mine], (ns - self.origin_ns).astype(np.float64), tokens, chars)

    def some_chunks(self, limit: int) -> Piece:
        """The reads of all requests, or of NUM_STRETCHES stretches of neighbouring ones, evenly over the measurement,
        where that would be more than about `limit` reads: what lies between them is not read from disk."""
        stretch = max(1, len(self) * limit // max(1, self.num_chunks) // NUM_STRETCHES)
        starts = np.linspace(0, len(self), NUM_STRETCHES, endpoint=False).astype(np.int64)
        chosen = (starts[:, None] + np.arange(stretch)).ravel()
        everyone = self.num_chunks <= limit
        return _joined(self.pieces(None if everyone else np.unique(chosen[chosen < len(self)])))

    @property
    def chunk_request(self) -> Ints:
        return self._chunks.request

    @property
    def chunk_ns(self) -> Floats:
        return self._chunks.ns

    @property
    def chunk_tokens(self) -> Ints:
        return self._chunks.tokens

    @property
    def chunk_chars(self) -> Ints:
        return self._chunks.chars

    @cached_property
    def _chunks(self) -> Piece:
        return _joined(self.pieces())

    @cached_property
    def gaps(self) -> ChunkGaps:
        """How the reads of each request follow each other."""
        from llmbench.results.gaps import chunk_gaps

        return chunk_gaps(self)

    def _floats(self, column: str) -> Floats:
        import pyarrow as pa

        return np.asarray(self._rows.column(column).cast(pa.float64()).to_numpy(zero_copy_only=False))


@lru_cache(maxsize=4)
def each_samples(run: Run) -> tuple[Samples, ...]:
    """One `Samples` per engine and level, in the order of the run's trials; pairs that measured nothing left out."""
    rows = run.requests
    engines, engine_of = _numbered(rows.column("engine"))
    levels, level_of = _numbered(rows.column("level"))
    measured = ~rows.column("warmup").to_numpy(zero_copy_only=False).astype(bool) & are_last(rows)
    due_ns, index = (rows.column(name).to_numpy() for name in ("due_ns", "index"))
    origin_ns = run.manifest.clock.origin_ns
    pair_of = engine_of * len(levels) + level_of
    found = []
    pairs = {(engines[pair // len(levels)], levels[pair % len(levels)]): pair for pair in np.unique(pair_of).tolist()}
    for engine, level in _in_order(run, pairs):
        members = np.flatnonzero(measured & (pair_of == pairs[engine, level]))
        if members.size:
            members = members[np.lexsort((index[members], due_ns[members]))]
            whole = Samples(run, engine, level, origin_ns, members, rows.take(members))
            found.append(_inside(whole))
    return tuple(found)


def samples(run: Run, engine: str, level: str) -> Samples | None:
    """The requests of `engine` at `level`; None if there is none."""
    return next((found for found in each_samples(run) if (found.engine, found.level) == (engine, level)), None)


def by_population(samples: Samples) -> dict[str, Samples]:
    """The same requests apart by who asked, in the order of first asking; nothing where the workload names nobody.
    Windows stay those of all together."""
    if samples._rows.column("population").null_count == len(samples):
        return {}
    return {
        name: _of_population(name, samples, _of_population(name, samples.whole, samples.whole))
        for name in dict.fromkeys(samples.texts("population"))
        if name is not None
    }


def _of_population(name: str, everyone: Samples, whole: Samples) -> Samples:
    import pyarrow.compute as pc

    members = np.flatnonzero(pc.equal(everyone._rows.column("population"), name).fill_null(False))
    rows = everyone._rows.take(members)
    return Samples(
        everyone.run, everyone.engine, everyone.level, everyone.origin_ns, everyone._members[members], rows, whole
    )


def _inside(whole: Samples) -> Samples:
    inside = whole.in_window(whole.ns("due_ns"))
    if inside.all():
        return whole
    members = whole._members[inside]
    rows = whole._rows.take(np.flatnonzero(inside))
    return Samples(whole.run, whole.engine, whole.level, whole.origin_ns, members, rows, whole)


def _joined(pieces: Iterator[Piece]) -> Piece:
    none = np.empty(0, np.int64)
    return Piece(*map(np.concatenate, zip(Piece(none, np.empty(0), none, none), *pieces, strict=True)))


def _numbered(column: pa.ChunkedArray) -> tuple[list[str], Ints]:
    """The texts of a column, each once, and the place there of every row's."""
    coded = column.combine_chunks().dictionary_encode()
    return coded.dictionary.to_pylist(), coded.indices.to_numpy().astype(np.int64)


def _amount(level: str) -> float:
    found = re.search(r"[0-9.]+(?:e[+-]?[0-9]+)?", level)
    return float(found[0]) if found else 0.0


def _in_order(run: Run, pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    # The manifest's order is the one the workload lists; a killed run may hold rows of a trial it does not name yet.
    order = [engine.label for engine in run.manifest.engines]
    planned = list(dict.fromkeys(trial.level for trial in run.manifest.trials))
    if run.manifest.search:
        # A search goes up and down; a reader does not.
        planned.sort(key=_amount)

    def place(pair: tuple[str, str]) -> tuple[int, int, str]:
        engine, level = pair
        return (
            planned.index(level) if level in planned else len(planned),
            order.index(engine) if engine in order else len(order),
            engine,
        )

    return sorted(pairs, key=place)
