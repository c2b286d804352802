"""The columns of one answer while it is read: a row per read, made into a `Timeline`'s lists when it has ended."""

from __future__ import annotations

from typing import Any, Protocol

Columns = tuple[list[int], list[int | None], list[bytes], list[bool]]


class ChunkLog(Protocol):
    """Rows of read_ns, arrival_ns, body and coalesced.

    While `between_frames`, the next byte of the connection begins an HTTP chunk, and a poller that reads natively may
    add whole ones by itself.
    """

    between_frames: bool

    @property
    def last_read_ns(self) -> int | None:
        """When the last row was read; None without one."""
        ...

    @property
    def num_bytes(self) -> int:
        """Of all bodies together."""
        ...

    def append(self, read_ns: int, arrival_ns: int | None, body: bytes, coalesced: bool, /) -> None: ...

    def take(self) -> Columns:
        """The rows as columns; the log is empty afterwards."""
        ...


class PythonChunkLog:
    """One list for all that is kept of a read: of hundreds of streams, what is touched has to come from memory."""

    __slots__ = ("_rows", "between_frames", "num_bytes")

    def __init__(self) -> None:
        self._rows: list[Any] = []
        self.between_frames = False
        self.num_bytes = 0

    @property
    def last_read_ns(self) -> int | None:
        return self._rows[-4] if self._rows else None

    def append(self, read_ns: int, arrival_ns: int | None, body: bytes, coalesced: bool, /) -> None:
        self._rows += (read_ns, arrival_ns, body, coalesced)
        self.num_bytes += len(body)

    def take(self) -> Columns:
        rows, self._rows, self.num_bytes = self._rows, [], 0
        return rows[0::4], rows[1::4], rows[2::4], rows[3::4]
