"""The simulated engine's loop: one thread, one selector, one heap of what is due.

No event loop stands between a send and its stamp, and one wakeup serves all answers that are due.
"""

from __future__ import annotations

import heapq
import json
import math
import selectors
import socket
import time
from typing import IO

from llmbench.engines.simulated_server.answer import Answer, response_head
from llmbench.engines.simulated_server.behaviour import Behaviour
from llmbench.engines.simulated_server.connection import Connection
from llmbench.engines.simulated_server.question import ROUTES, Question, read_question
from llmbench.engines.simulated_server.timer import Timer
from llmbench.engines.simulated_server.wander import Wander

_BACKLOG = 4096


class SimulatedServer:
    """Answers as `behaviour` says. `log` gets one JSON line per answer, when it ends.

    Raises OSError when host and port cannot be had; port 0 takes a free one, see `port`.
    """

    def __init__(self, host: str, port: int, model: str, behaviour: Behaviour, log: IO[bytes] | None) -> None:
        self._model = model
        self._behaviour = behaviour
        self._wander = Wander(behaviour.seed)
        self._log_file = log
        self._selector = selectors.DefaultSelector()
        self._timer = Timer(self._selector)
        self._due: list[tuple[int, int, Connection, Answer]] = []
        self._num_scheduled = 0
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._selector.register(self._listener, selectors.EVENT_READ, self)
        self._stopping = False
        # Written to by `stop`: a selector that waits is not woken by a flag.
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._selector.register(self._wake_reader, selectors.EVENT_READ)

    def stop(self) -> None:
        """Make `run` return; may be called from a signal handler or another thread."""
        self._stopping = True
        self._wake_writer.send(b"x")

    def run(self) -> None:
        """Serve until `stop`; answers under way are logged then, each with the chunks that left."""
        due = self._due
        try:
            while not self._stopping:
                for key, events in self._timer.select(due[0][0] if due else None):
                    owner = key.data
                    if isinstance(owner, Connection):
                        owner.handle(events)
                    elif owner is self:
                        self._accept()
                    elif owner is self._timer:
                        self._timer.disarm()
                now_ns = time.perf_counter_ns()
                # Taken out before any is served: one that is due again at once must not keep clients from being heard.
                ready = []
                while due and due[0][0] <= now_ns:
                    ready.append(heapq.heappop(due))
                for _, _, connection, answer in ready:
                    connection.advance(answer, now_ns)
        finally:
            for key in list(self._selector.get_map().values()):
                if isinstance(key.data, Connection):
                    key.data.close("server stopped")
            for sock in (self._listener, self._wake_reader, self._wake_writer):
                sock.close()
            self._timer.close()
            self._selector.close()

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return  # The client has left already, or descriptors have run out: it will be tried again.
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        Connection(sock, self._selector, self._respond, self._schedule, self._log)

    def _schedule(self, connection: Connection, answer: Answer) -> None:
        # The number keeps equal times in the order in which they came, and the heap from comparing connections.
        self._num_scheduled += 1
        heapq.heappush(self._due, (answer.due_ns, self._num_scheduled, connection, answer))

    def _log(self, answer: Answer) -> None:
        if self._log_file is not None:
            self._log_file.write(answer.log_line(time.perf_counter_ns()))

    def _respond(
        self, path: str, method: str, headers: dict[str, str], body: bytes, keep_alive: bool, arrival_ns: int
    ) -> Answer | bytes:
        request_id = headers.get("x-request-id", "")
        nobody = Question(request_id=request_id, keep_alive=keep_alive)
        if path in ROUTES:
            if method != "POST":
                return _plain(405, nobody, {"error": {"message": f"{path} takes POST, not {method}."}})
            try:
                question, behaviour = read_question(path, headers, body, keep_alive, self._behaviour)
            except ValueError as error:
                return _plain(400, nobody, {"error": {"message": f"Simulated engine: {error}", "code": 400}})
            pace = 1.0
            if behaviour.wander:
                pace = math.exp(behaviour.wander * self._wander.at(arrival_ns, behaviour.wander_s))
            return Answer(question, behaviour, arrival_ns, pace)
        if path == "/v1/models":
            model = {"id": self._model, "object": "model", "created": 0, "owned_by": "llmbench"}
            return _plain(200, nobody, {"object": "list", "data": [model]})
        if path == "/health":
            return _plain(200, nobody, {"status": "ok"})
        return _plain(404, nobody, {"error": {"message": f"There is nothing at {path}."}})


def _plain(status: int, question: Question, body: object) -> bytes:
    encoded = json.dumps(body).encode()
    return response_head(status, question, {}, len(encoded)) + encoded
