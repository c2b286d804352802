"""A run as it lies on disk: the only input of every figure, finished or not."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llmbench.results.answers import ANSWERS, ANSWERS_JOURNAL, journalled_answers, upgraded_answers
from llmbench.results.errors import RunError
from llmbench.results.journal import JOURNAL, read_batches
from llmbench.results.manifest import Manifest, parse
from llmbench.results.schema import chunk_schema, request_schema, upgraded_requests
from llmbench.results.telemetry import TELEMETRY, TELEMETRY_JOURNAL, journalled, telemetry_schema

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from numpy.typing import NDArray

MANIFEST = "manifest.json"
REQUESTS = "requests.parquet"
CHUNKS = "chunks.parquet"


@dataclass(frozen=True, eq=False)
class Run:
    """What a run directory holds. Tables are read when first asked for and kept."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: Path) -> Run:
        """The run in the folder `path`. Raises RunError with what is missing or newer than this program."""
        if not path.is_dir():
            raise RunError(f"{path} is no folder; give a run directory, such as `llmbench run` prints it.")
        try:
            text = (path / MANIFEST).read_text()
        except OSError:
            raise RunError(f"{path} has no {MANIFEST}, so it is not a run directory of llmbench.") from None
        run = cls(path, parse(text, str(path / MANIFEST)))
        if not run.finished and not (path / JOURNAL).is_file():
            raise RunError(f"{path} has neither {REQUESTS} nor {JOURNAL}: its measurements are gone.")
        return run

    @property
    def finished(self) -> bool:
        """Whether the run came to its end, be it by interruption; False for one that is under way or was killed."""
        return self.manifest.status != "running"

    @cached_property
    def requests(self) -> pa.Table:
        """One row per request, in the order in which they ended: schema.request_schema()."""
        return upgraded_requests(_read_parquet(self.path / REQUESTS)) if self.finished else self._journalled[0]

    @cached_property
    def chunks(self) -> pa.Table:
        """One row per stamped read, grouped by request in the order of `requests`: schema.chunk_schema()."""
        return _read_parquet(self.path / CHUNKS) if self.finished else self._journalled[1]

    def chunk_pieces(self, names: Sequence[str], wanted: NDArray[np.bool_]) -> Iterator[tuple[range, pa.Table]]:
        """Columns of `chunks` in pieces that fit in memory, each with the rows of `requests` that it belongs to.

        `wanted` says of each request whether it is of interest: pieces without any such are not read.
        """
        if not self.finished:
            if wanted.any():
                yield range(len(wanted)), self.chunks.select(list(names))
            return
        ends = np.cumsum(self.requests.column("num_chunks").to_numpy())
        with _opened(self.path / CHUNKS) as file:
            first = 0
            for group in range(file.num_row_groups):
                last = first + file.metadata.row_group(group).num_rows
                held = range(
                    int(np.searchsorted(ends, first, side="right")), int(np.searchsorted(ends, last, side="left")) + 1
                )
                if last > first and wanted[held.start : held.stop].any():
                    yield held, file.read_row_group(group, list(names))
                first = last

    @cached_property
    def telemetry(self) -> pa.Table:
        """What servers and devices said of themselves: telemetry.telemetry_schema(); no rows where nobody asked."""
        path = self.path / TELEMETRY
        if not self.finished or not path.is_file():
            return journalled(self.path / TELEMETRY_JOURNAL)
        return _read_parquet(path).select(telemetry_schema().names)

    @cached_property
    def answers(self) -> pa.Table:
        """The texts of answers that were kept: answers.answers_schema(); no rows where none were."""
        path = self.path / ANSWERS
        if not self.finished or not path.is_file():
            return journalled_answers(self.path / ANSWERS_JOURNAL)
        return upgraded_answers(_read_parquet(path))

    @cached_property
    def _journalled(self) -> tuple[pa.Table, pa.Table]:
        import pyarrow as pa

        batches = list(read_batches(self.path / JOURNAL))
        return (
            pa.concat_tables([request_schema().empty_table(), *(requests for requests, _ in batches)]),
            pa.concat_tables([chunk_schema().empty_table(), *(chunks for _, chunks in batches)]),
        )


def _read_parquet(path: Path) -> pa.Table:
    with _opened(path) as file:
        return file.read()


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # Not read_table: given a path it looks for partitions in folder names such as `engine=a`.
        with pq.ParquetFile(path) as file:
            yield file
    except (OSError, pa.ArrowInvalid) as error:
        raise RunError(f"{path} cannot be read ({error}); restore it from a copy of the run directory.") from None
