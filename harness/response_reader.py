"""One HTTP/1.1 answer, read by read, into a `Timeline`: framing is understood here, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import httptools

from llmbench.engines.wire import Failure, FailureKind, Timeline
from llmbench.harness.chunk_log import ChunkLog, PythonChunkLog

MAX_HEAD_BYTES = 64 * 1024
MAX_BODY_BYTES = 256 * 1024 * 1024
_TOO_LONG = f"The answer is longer than {MAX_BODY_BYTES} bytes."


class _WholeFrames(dict[int, tuple[tuple[bytes, ...], int]]):
    """By the length of a read: how it begins if it is one whole HTTP chunk and nothing else, and where the data begins.

    Only sizes without leading zeros and without extensions are known here, which is how servers write them; a length
    that no such chunk has begins with nothing. Filled as lengths are seen.
    """

    def __missing__(self, num_bytes: int) -> tuple[tuple[bytes, ...], int]:
        begins: tuple[bytes, ...] = ()
        size, num_digits = 0, 1
        while (size := num_bytes - num_digits - 4) >= 16**num_digits:
            num_digits += 1
        if size > 0 and len(f"{size:x}") == num_digits:
            begins = (b"%x\r\n" % size, b"%X\r\n" % size)
        self[num_bytes] = begins, num_digits + 2
        return self[num_bytes]


_WHOLE_FRAMES = _WholeFrames()


def _always() -> bool:
    return True


def _refuse(data: bytes) -> None:
    raise AssertionError("fed after its end")


class ResponseReader:
    """Fills `timeline` from the bytes of a connection; opens no socket and reads no clock.

    Interim answers (1xx) are skipped. Only a body whose length nobody declared may end with the connection: any other
    that does is TRUNCATED, and bytes that are no answer are MALFORMED. `several_segments` is asked, when one read
    carried more than one frame, whether the network delivered it in more than one piece. The chunks are in `timeline`
    once the answer has ended or the reader was closed; until then in `log`, by default one in Python.
    """

    __slots__ = (
        "_declared_length",
        "_feed_data",
        "_finished",
        "_frame_ended",
        "_head_bytes",
        "_head_complete",
        "_log",
        "_num_own_parts",
        "_parser",
        "_parts",
        "is_reusable",
        "on_body",
        "on_chunk_complete",
        "on_chunk_header",
        "several_segments",
        "timeline",
    )

    def __init__(
        self, timeline: Timeline, several_segments: Callable[[], bool] = _always, log: ChunkLog | None = None
    ) -> None:
        self.timeline = timeline
        self.is_reusable = False
        self.several_segments = several_segments
        self._log: ChunkLog = PythonChunkLog() if log is None else log
        self._parts: list[bytes] = []
        # httptools looks its callbacks up once: a list's own append costs no Python frame per HTTP chunk.
        self.on_body = self._parts.append
        # Not empty while the parser stands just behind the end of an HTTP chunk.
        self._frame_ended: list[None] = []
        self.on_chunk_header = self._frame_ended.clear
        self.on_chunk_complete = partial(self._frame_ended.append, None)
        self._num_own_parts = 0
        self._head_bytes = 0
        self._head_complete = False
        self._declared_length = False
        self._finished = False
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self._feed_data: Callable[[bytes], None] = self._parser.feed_data

    @property
    def last_body_ns(self) -> int | None:
        """When the last read with a body returned."""
        return self._log.last_read_ns

    @property
    def log(self) -> ChunkLog | None:
        """Where whole HTTP chunks may go instead of to `feed`, while it is between frames."""
        return self._log

    def feed(self, data: bytes, read_ns: int, arrival_ns: int | None = None) -> bool:
        """True once the answer is complete or has failed; then feed no more.

        `read_ns` is when the read returned, `arrival_ns` when the network stack got the last byte of `data`, where it
        tells.
        """
        # One whole HTTP chunk behind another, as nearly every read of a stream is: the parser, which would stand
        # afterwards where it stands, is spared it.
        if self._frame_ended:
            begins, start = _WHOLE_FRAMES[len(data)]
            if data.startswith(begins) and data.endswith(b"\r\n"):
                self._log.append(read_ns, arrival_ns, data[start:-2], False)
                if self._log.num_bytes <= MAX_BODY_BYTES:
                    return False
                self._end(read_ns, Failure(FailureKind.MALFORMED, _TOO_LONG))
                return True
        had_head = self._head_complete
        problem: str | None = None
        try:
            self._feed_data(data)
        except httptools.HttpParserUpgrade:
            self._finished = False
            problem = "The server switched protocols, which nobody had asked for."
        except httptools.HttpParserError as error:
            problem = f"The answer is not valid HTTP/1.1: {error}."
        if not data.endswith(b"\r\n"):  # a part of the next size line may have been fed
            self._frame_ended.clear()
        if not had_head:
            problem = self._check_head(data, read_ns if arrival_ns is None else arrival_ns) or problem
        parts = self._parts
        if self._finished:
            coalesced = self._num_own_parts > 0 and self.several_segments()  # what ended the answer may have come apart
            del parts[self._num_own_parts :]
        else:
            coalesced = len(parts) > 1 and self.several_segments()
        if parts:
            body = parts[0] if len(parts) == 1 else b"".join(parts)
            parts.clear()
            self._log.append(read_ns, arrival_ns, body, coalesced)
            if self._log.num_bytes > MAX_BODY_BYTES:
                problem = problem or _TOO_LONG
        if self._finished:
            # The answer is whole, whatever followed it; but a server that goes on talking is not asked again.
            self.is_reusable = self.is_reusable and problem is None
            self._end(read_ns if arrival_ns is None else arrival_ns, None)
            return True
        if problem is not None:
            self._end(read_ns, Failure(FailureKind.MALFORMED, problem))
            return True
        self._log.between_frames = bool(self._frame_ended)
        return False

    def end_of_stream(self, read_ns: int) -> None:
        """The server closed its side: the end of the answer, or too early for it."""
        if self._head_complete and not self._declared_length:
            self._end(read_ns, None)
            return
        num_bytes = self._log.num_bytes
        received = f"after {num_bytes} bytes of the body" if self._head_complete else "before its head was whole"
        if self.timeline.first_byte_ns is None:
            received = "before its first byte"
        self._end(read_ns, Failure(FailureKind.TRUNCATED, f"The server closed the connection {received}."))

    def close(self) -> None:
        """Hand over the chunks so far, and feed no more; closing twice is fine."""
        log, timeline = self._log, self.timeline
        log.between_frames = False
        if log.last_read_ns is not None:
            timeline.chunk_ns, timeline.arrival_ns, timeline.chunk_bytes, timeline.coalesced = log.take()
        # The parser holds this object in a cycle, which no garbage collector breaks during a run.
        self._parser = None
        self._feed_data = _refuse
        self._frame_ended.clear()

    def _check_head(self, data: bytes, stamp_ns: int) -> str | None:
        """What is wrong with the head as far as it has come."""
        if self.timeline.first_byte_ns is None:
            self.timeline.first_byte_ns = stamp_ns
        self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD_BYTES and not self._head_complete:
            return f"The answer's head is longer than {MAX_HEAD_BYTES} bytes."
        return None

    def _end(self, end_ns: int, failure: Failure | None) -> None:
        self.timeline.end_ns = end_ns
        self.timeline.failure = failure
        self.is_reusable = self.is_reusable and failure is None
        self.close()

    # What httptools calls.

    def on_message_begin(self) -> None:
        if self._finished:
            self.is_reusable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._finished:
            return
        self.timeline.headers.append((name.decode("latin-1"), value.decode("latin-1")))
        self._declared_length = self._declared_length or (
            name.lower() == b"content-length"
            or (name.lower() == b"transfer-encoding" and value.lower().endswith(b"chunked"))
        )

    def on_headers_complete(self) -> None:
        if self._finished:
            return
        assert self._parser is not None
        status = self._parser.get_status_code()
        if 100 <= status < 200 and status != 101:
            self.timeline.headers.clear()
            self._declared_length = False
            return
        self.timeline.status = status
        self._head_complete = True

    def on_message_complete(self) -> None:
        if self._finished or not self._head_complete:
            return
        self._finished = True
        self._num_own_parts = len(self._parts)
        assert self._parser is not None
        self.is_reusable = self._parser.should_keep_alive()
