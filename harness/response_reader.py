"""One HTTP/1.1 answer, read by read, into a `Timeline`: framing is understood here, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import httptools

from llmbench.engines.wire import Failure, FailureKind, Timeline

MAX_HEAD_BYTES = 64 * 1024
MAX_BODY_BYTES = 256 * 1024 * 1024


def _always() -> bool:
    return True


class ResponseReader:
    """Fills `timeline` from the bytes of a connection; opens no socket and reads no clock.

    Interim answers (1xx) are skipped. Only a body whose length nobody declared may end with the connection: any other
    that does is TRUNCATED, and bytes that are no answer are MALFORMED. `several_segments` is asked, when one read
    carried more than one frame, whether the network delivered it in more than one piece.
    """

    __slots__ = (
        "_body_bytes",
        "_declared_length",
        "_finished",
        "_head_bytes",
        "_head_complete",
        "_num_parts",
        "_parser",
        "_parts",
        "is_reusable",
        "on_body",
        "several_segments",
        "timeline",
    )

    def __init__(self, timeline: Timeline, several_segments: Callable[[], bool] = _always) -> None:
        self.timeline = timeline
        self.is_reusable = False
        self.several_segments = several_segments
        self._parts: list[bytes] = []
        # httptools looks its callbacks up once: a list's own append costs no Python frame per HTTP chunk.
        self.on_body = self._parts.append
        self._num_parts: int | None = None
        self._body_bytes = 0
        self._head_bytes = 0
        self._head_complete = False
        self._declared_length = False
        self._finished = False
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)

    def feed(self, data: bytes, read_ns: int, arrival_ns: int | None = None) -> bool:
        """True once the answer is complete or has failed; then feed no more.

        `read_ns` is when the read returned, `arrival_ns` when the network stack got the last byte of `data`, where it
        tells.
        """
        assert self._parser is not None
        timeline = self.timeline
        stamp_ns = read_ns if arrival_ns is None else arrival_ns
        if timeline.first_byte_ns is None:
            timeline.first_byte_ns = stamp_ns
        problem: str | None = None
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._finished = False
            problem = "The server switched protocols, which nobody had asked for."
        except httptools.HttpParserError as error:
            problem = f"The answer is not valid HTTP/1.1: {error}."
        parts = self._parts
        num_frames = len(parts)
        if num_frames:
            if self._num_parts is not None:
                del parts[self._num_parts :]
                num_frames = self._num_parts + 1  # what closed the message came in this read too
            body = parts[0] if len(parts) == 1 else b"".join(parts)
            parts.clear()
            if body:
                timeline.chunk_ns.append(read_ns)
                timeline.chunk_bytes.append(body)
                timeline.arrival_ns.append(arrival_ns)
                timeline.coalesced.append(num_frames > 1 and self.several_segments())
                self._body_bytes += len(body)
                if self._body_bytes > MAX_BODY_BYTES and problem is None:
                    problem = f"The answer is longer than {MAX_BODY_BYTES} bytes."
        if self._finished:
            # The answer is whole, whatever followed it; but a server that goes on talking is not asked again.
            self.is_reusable = self.is_reusable and problem is None
            self._end(stamp_ns, None)
            return True
        if problem is None and not self._head_complete:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                problem = f"The answer's head is longer than {MAX_HEAD_BYTES} bytes."
        if problem is not None:
            self._end(read_ns, Failure(FailureKind.MALFORMED, problem))
            return True
        return False

    def end_of_stream(self, read_ns: int) -> None:
        """The server closed its side: the end of the answer, or too early for it."""
        if self._head_complete and not self._declared_length:
            self._end(read_ns, None)
            return
        received = f"after {self._body_bytes} bytes of the body" if self._head_complete else "before its head was whole"
        if self.timeline.first_byte_ns is None:
            received = "before its first byte"
        self._end(read_ns, Failure(FailureKind.TRUNCATED, f"The server closed the connection {received}."))

    def close(self) -> None:
        """Let go of the parser, which holds this object in a cycle that no garbage collector breaks during a run."""
        self._parser = None

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
        assert self._parser is not None
        self._finished = True
        self._num_parts = len(self._parts)
        self.is_reusable = self._parser.should_keep_alive()
