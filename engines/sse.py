"""Server-sent events from bytes, however the network cut them."""

from __future__ import annotations

from typing import NamedTuple

_BOM = b"\xef\xbb\xbf"


class SseEvent(NamedTuple):
    """One dispatched event. `data` is still bytes, several `data:` lines joined by a line feed."""

    data: bytes
    name: bytes = b"message"


class SseParser:
    """Feed it bytes, get the events that those bytes completed.

    Lines may end in CRLF, LF or CR, the space after the colon is optional, comments and unknown fields are skipped, and
    an event without data is none. Which events come out does not depend on how the bytes are split over `feed` calls.
    Source: WHATWG HTML, "Server-sent events", 9.2.6.
    """

    __slots__ = ("_after_cr", "_at_start", "_data", "_name", "_partial")

    def __init__(self) -> None:
        self._partial: list[bytes] = []
        self._data: list[bytes] = []
        self._name = b""
        self._after_cr = False
        self._at_start = True

    def feed(self, data: bytes) -> list[SseEvent]:
        """The events completed by `data`, in order."""
        if not data:
            return []
        if self._after_cr:
            # A CR has ended the line already; the LF of a CRLF that was split over two reads must not end another.
            data = data.removeprefix(b"\n")
            self._after_cr = False
        if b"\r" in data:
            self._after_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        head, newline, tail = data.rpartition(b"\n")
        if not newline:
            self._partial.append(tail)
            return []
        if self._partial:
            head = b"".join(self._partial) + head
        self._partial = [tail] if tail else []
        return self._take(head.split(b"\n"))

    def finish(self) -> list[SseEvent]:
        """The last event of a stream that ended without its blank line; the standard drops it, servers rely on it."""
        lines = [b"".join(self._partial), b""]
        self._partial = []
        return self._take(lines)

    def _take(self, lines: list[bytes]) -> list[SseEvent]:
        if self._at_start:
            self._at_start = False
            lines[0] = lines[0].removeprefix(_BOM)
        events: list[SseEvent] = []
        for line in lines:
            if not line:
                if self._data:
                    events.append(SseEvent(b"\n".join(self._data), self._name or b"message"))
                    self._data = []
                self._name = b""
            elif line.startswith(b"data:"):
                self._data.append(line[6:] if line[5:6] == b" " else line[5:])
            elif line.startswith(b"event:"):
                self._name = line[6:].removeprefix(b" ")
            elif line == b"data":
                self._data.append(b"")
        return events
