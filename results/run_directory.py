"""The run directory while it is written: a journal from the first answer on, Parquet when the run is finished."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, get_args

from llmbench.results.answers import ANSWERS, ANSWERS_JOURNAL, journalled_answers
from llmbench.results.errors import RunError
from llmbench.results.journal import JOURNAL, Journal, read_batches
from llmbench.results.manifest import FinalStatus, Manifest
from llmbench.results.records import ChunkRecord, RequestRecord
from llmbench.results.run import CHUNKS, MANIFEST, REQUESTS, Run
from llmbench.results.schema import chunk_schema, request_schema
from llmbench.results.telemetry import TELEMETRY, TELEMETRY_JOURNAL, journalled

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Run", "RunDirectory", "RunError"]

LOGS = "logs"


class RunDirectory:
    """A run directory being written. Whatever was appended can be read by `Run.open` from that moment on, whether
    `finish` is ever called or not. One process writes; any number may read."""

    def __init__(self, path: Path, manifest: Manifest, journal: Journal) -> None:
        self.path = path
        self.manifest = manifest
        self._journal = journal

    @classmethod
    def create(cls, path: Path, manifest: Manifest) -> RunDirectory:
        """A new directory at `path`, parents included. Raises RunError if something is there already."""
        try:
            path.mkdir(parents=True, exist_ok=True)
            if any(path.iterdir()):
                raise RunError(f"{path} is not empty; give another folder, so that no run is ever overwritten.")
            (path / LOGS).mkdir()
            _write_manifest(path, manifest)
            journal = Journal(path / JOURNAL)
        except OSError as error:
            raise RunError(f"{path} cannot be made a run directory: {error.strerror or error}.") from None
        return cls(path, manifest, journal)

    def append(self, request: RequestRecord, chunks: Sequence[ChunkRecord]) -> None:
        """Store one request's row and its chunks' rows, in the order of their index."""
        self._journal.append(request, chunks)

    def log_path(self, label: str) -> Path:
        """Where the log of the engine called `label` goes; a label that is no file name gets one of its own."""
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", label).strip(".-")[:60]
        if stem != label:
            stem = f"{stem or 'engine'}-{hashlib.sha256(label.encode()).hexdigest()[:8]}"
        return self.path / LOGS / f"{stem}.log"

    def update_manifest(self, **changes: Any) -> None:
        """Replace fields of the manifest, at once and as a whole on disk."""
        self.manifest = self.manifest.changed(**changes)
        _write_manifest(self.path, self.manifest)

    def close(self) -> None:
        """Let go of the files and leave the run unfinished, as a killed writer would."""
        self._journal.close()

    def finish(self, status: str, *, problems: Sequence[str] = ()) -> None:
        """Turn the journals into Parquet tables and give the manifest its FinalStatus.

        Killed in the middle, it leaves the journals, which count until the tables are complete.
        """
        assert status in get_args(FinalStatus), status
        self._journal.close()
        try:
            _write_tables(self.path)
            _write_journalled(self.path / TELEMETRY, journalled(self.path / TELEMETRY_JOURNAL))
            _write_journalled(self.path / ANSWERS, journalled_answers(self.path / ANSWERS_JOURNAL))
            self.update_manifest(status=status, problems=tuple(problems))
        except OSError as error:
            raise RunError(
                f"{self.path} cannot be finished ({error.strerror or error}); every request is kept in {JOURNAL}."
            ) from error
        (self.path / JOURNAL).unlink()
        (self.path / TELEMETRY_JOURNAL).unlink(missing_ok=True)
        (self.path / ANSWERS_JOURNAL).unlink(missing_ok=True)


def _write_tables(path: Path) -> None:
    import pyarrow.parquet as pq

    with (
        _replacing(path / CHUNKS) as chunk_file,
        _replacing(path / REQUESTS) as request_file,
        pq.ParquetWriter(chunk_file, chunk_schema(), compression="zstd") as chunk_writer,
        pq.ParquetWriter(request_file, request_schema(), compression="zstd") as request_writer,
    ):
        for requests, chunks in read_batches(path / JOURNAL):
            request_writer.write_table(requests, row_group_size=max(1, requests.num_rows))
            chunk_writer.write_table(chunks, row_group_size=max(1, chunks.num_rows))


def _write_journalled(path: Path, table: pa.Table) -> None:
    import pyarrow.parquet as pq

    if table.num_rows:
        with _replacing(path) as file:
            pq.write_table(table, file, compression="zstd")


def _write_manifest(path: Path, manifest: Manifest) -> None:
    with _replacing(path / MANIFEST) as file:
        file.write(manifest.model_dump_json(indent=2).encode() + b"\n")


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes `path`'s place when it is complete and on disk, and never in parts."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
