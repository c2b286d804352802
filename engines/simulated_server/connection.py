"""One client's connection: requests in, due bytes out, and stamps right before and after the kernel took them."""

from __future__ import annotations

import selectors
import socket
import time
from collections import deque
from collections.abc import Callable

import httptools

from llmbench.engines.simulated_server.answer import Answer, response_head
from llmbench.engines.simulated_server.question import Question

MAX_REQUEST_BYTES = 16 * 1024 * 1024
MAX_PIPELINED = 16
_READ_BYTES = 256 * 1024

# Called with path, method, headers, body and whether the connection stays; gives an answer, or bytes to send at once.
Respond = Callable[[str, str, dict[str, str], bytes, bool, int], "Answer | bytes"]


class Connection:
    """`respond` turns each request into an `Answer` or finished bytes, `schedule` is told of an answer whose next step
    is to be waited for, `log` of one that is over. Requests that come early are answered in order."""

    def __init__(
        self,
        sock: socket.socket,
        selector: selectors.BaseSelector,
        respond: Respond,
        schedule: Callable[[Connection, Answer], None],
        log: Callable[[Answer], None],
    ) -> None:
        self._sock = sock
        self._selector = selector
        self._respond = respond
        self._schedule = schedule
        self._log = log
        self._parser: httptools.HttpRequestParser | None = httptools.HttpRequestParser(self)
        self._url, self._headers, self._body, self._num_bytes = b"", dict[str, str](), list[bytes](), 0
        self._waiting: deque[Answer | bytes] = deque()
        self._answer: Answer | None = None
        self._backlog = b""
        self._began_ns = 0
        self._closes = False
        selector.register(sock, selectors.EVENT_READ, self)

    # What the server calls.

    def handle(self, events: int) -> None:
        """Read or write, as the selector says. The connection closes itself when the client is gone."""
        try:
            if events & selectors.EVENT_WRITE and self._backlog:
                self._flush()
            if events & selectors.EVENT_READ and self._parser is not None:
                self._read()
        except OSError:
            self.close("client gone")

    def advance(self, answer: Answer, now_ns: int) -> None:
        """Send what of `answer` is due; nothing if it has ended meanwhile."""
        if answer is not self._answer:
            return
        try:
            self._send(answer.take(now_ns))
        except OSError:
            self.close("client gone")

    def close(self, outcome: str) -> None:
        """Drop the connection and log the answer under way, if any, as `outcome`."""
        if self._parser is None:
            return
        # The parser refers back to this object; without this each connection would wait for the garbage collector.
        self._parser = None
        if self._answer is not None:
            self._answer.outcome = outcome
            self._log(self._answer)
            self._answer = None
        self._selector.unregister(self._sock)
        self._sock.close()

    # What httptools calls.

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        arrival_ns = time.perf_counter_ns()
        assert self._parser is not None
        path = self._url.partition(b"?")[0].decode("latin-1")
        method = self._parser.get_method().decode("latin-1")
        keep_alive = self._parser.should_keep_alive()
        body = b"".join(self._body)
        self._waiting.append(self._respond(path, method, self._headers, body, keep_alive, arrival_ns))
        self._closes = self._closes or not keep_alive
        self._url, self._headers, self._body, self._num_bytes = b"", {}, [], 0

    def _read(self) -> None:
        data = self._sock.recv(_READ_BYTES)
        if not data:
            self.close("client gone")
            return
        if self._closes:
            return  # What comes after the last request is of no interest, and may be without end.
        self._num_bytes += len(data)
        assert self._parser is not None
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._refuse()
        if self._num_bytes > MAX_REQUEST_BYTES or len(self._waiting) > MAX_PIPELINED:
            self._refuse()
        self._answer_next()

    def _refuse(self) -> None:
        self._waiting.clear()
        self._waiting.append(response_head(400, Question(request_id="", keep_alive=False), {}, 0))
        self._closes = True

    def _answer_next(self) -> None:
        while self._parser is not None and self._answer is None and not self._backlog and self._waiting:
            following = self._waiting.popleft()
            if isinstance(following, bytes):
                self._send(following)
                continue
            self._answer = following
            self._send(following.head)
        if self._closes and not self._waiting and self._answer is None and not self._backlog:
            self.close("done")

    def _send(self, data: bytes) -> None:
        self._began_ns = time.perf_counter_ns()
        try:
            num_sent = self._sock.send(data) if data else 0
        except BlockingIOError:
            num_sent = 0
        if num_sent == len(data):
            self._sent()
            return
        self._backlog = data[num_sent:]
        self._selector.modify(self._sock, selectors.EVENT_READ | selectors.EVENT_WRITE, self)

    def _flush(self) -> None:
        num_sent = self._sock.send(self._backlog)
        self._backlog = self._backlog[num_sent:]
        if not self._backlog:
            self._selector.modify(self._sock, selectors.EVENT_READ, self)
            self._sent()
            self._answer_next()

    def _sent(self) -> None:
        answer = self._answer
        if answer is None:
            return
        answer.stamp(self._began_ns, time.perf_counter_ns())
        if not answer.is_over:
            self._schedule(self, answer)
            return
        self._answer = None
        self._log(answer)
        if answer.closes:
            self.close("done")
        else:
            self._answer_next()
