"""What one engine was asked at one load level, as numpy columns: the input of every metric and picture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llmbench.results.run import Run
from llmbench.results.units import Floats as Floats
from llmbench.results.units import Ints as Ints
from llmbench.results.units import Units, units_of

if TYPE_CHECKING:
    import pyarrow as pa

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Samples:
    """The measured requests of one engine at one level, in the order in which they were due; warm-up left out.

    Times are float64 ns since `origin_ns`, exact for 104 days, NaN where there is no stamp. The chunk columns hold the
    stamped reads of these requests, grouped by request; `chunk_request` is each read's index into the request columns.
    """

    run: Run
    engine: str
    level: str
    origin_ns: int
    _rows: pa.Table
    _chunk_mask: Bools
    _order: Ints

    def __len__(self) -> int:
        return len(self._order)

    def ns(self, column: str) -> Floats:
        """A stamp of every request, e.g. `ns("sent_ns")`."""
        return (self._floats(column) - self.origin_ns)[self._order]

    def counts(self, column: str) -> Floats:
        """A count of every request, e.g. `counts("output_tokens")`; NaN where nobody gave one."""
        return self._floats(column)[self._order]

    def texts(self, column: str) -> list[str | None]:
        """A text of every request, e.g. `texts("error_kind")`."""
        texts: list[str | None] = self._rows.column(column).to_pylist()
        return [texts[row] for row in self._order]

    @cached_property
    def ok(self) -> Bools:
        import pyarrow.compute as pc

        return np.asarray(pc.equal(self._rows.column("status"), "ok"))[self._order]

    @cached_property
    def round(self) -> Ints:
        return self._floats("round").astype(np.int64)[self._order]

    @cached_property
    def units(self) -> Units:
        """The independent parts of this measurement."""
        return units_of(self.round)

    @cached_property
    def chunk_request(self) -> Ints:
        num_chunks = self._floats("num_chunks").astype(np.int64)
        place = np.empty(len(self), np.int64)
        place[self._order] = np.arange(len(self))
        return np.repeat(place, num_chunks)

    @cached_property
    def chunk_ns(self) -> Floats:
        return self._chunk_floats("t_ns") - self.origin_ns

    @cached_property
    def chunk_tokens(self) -> Ints:
        return self._chunk_floats("tokens").astype(np.int64)

    @cached_property
    def chunk_chars(self) -> Ints:
        return self._chunk_floats("chars").astype(np.int64)

    def _floats(self, column: str) -> Floats:
        import pyarrow as pa

        return np.asarray(self._rows.column(column).cast(pa.float64()).to_numpy(zero_copy_only=False))

    def _chunk_floats(self, column: str) -> Floats:
        import pyarrow as pa

        values = self.run.chunk_columns(column).column(column).cast(pa.float64()).to_numpy()
        return np.asarray(values)[self._chunk_mask]


def each_samples(run: Run) -> Iterator[Samples]:
    """One `Samples` per engine and level, in the order of the run's trials; pairs that measured nothing left out."""
    rows = run.requests
    engines = np.asarray(rows.column("engine").to_pylist(), dtype=object)
    levels = np.asarray(rows.column("level").to_pylist(), dtype=object)
    measured = ~rows.column("warmup").to_numpy(zero_copy_only=False).astype(bool)
    num_chunks = rows.column("num_chunks").to_numpy(zero_copy_only=False)
    origin_ns = run.manifest.clock.origin_ns
    for engine, level in _pairs(run, engines, levels):
        mask = measured & (engines == engine) & (levels == level)
        if mask.any():
            chosen = rows.filter(_arrow(mask))
            due_ns = chosen.column("due_ns").to_numpy(zero_copy_only=False)
            order = np.lexsort((chosen.column("index").to_numpy(zero_copy_only=False), due_ns))
            yield Samples(run, engine, level, origin_ns, chosen, np.repeat(mask, num_chunks), order)


def samples(run: Run, engine: str, level: str) -> Samples | None:
    """The requests of `engine` at `level`; None if there is none."""
    return next((found for found in each_samples(run) if (found.engine, found.level) == (engine, level)), None)


def _pairs(run: Run, engines: NDArray[Any], levels: NDArray[Any]) -> list[tuple[str, str]]:
    # The manifest's order is the one the workload lists; a killed run may hold rows of a trial it does not name yet.
    order = [engine.label for engine in run.manifest.engines]
    found = dict.fromkeys(zip(engines, levels, strict=True))
    planned = list(dict.fromkeys(trial.level for trial in run.manifest.trials))

    def place(pair: tuple[str, str]) -> tuple[int, int, str]:
        engine, level = pair
        return (
            planned.index(level) if level in planned else len(planned),
            order.index(engine) if engine in order else len(order),
            engine,
        )

    return sorted(found, key=place)


def _arrow(mask: Bools) -> Any:
    import pyarrow as pa

    return pa.array(mask)
