"""A loopback server whose every connection follows a script: what a real server does on a bad day."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator

import pytest

from llmbench.engines.wire import Endpoint, Timeline, WireRequest
from llmbench.harness.loadgen import LoadReport, Outgoing, StopFlag, run_load
from llmbench.harness.native_reads import CHOICE, chosen_reader
from llmbench.workloads.spec import TimeoutSpec

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


class Peer:
    """The server's end of one connection. A client that has gone shows as OSError or an empty request."""

    def __init__(self, server: ScriptedServer, sock: socket.socket) -> None:
        self.server = server
        self.socket = sock

    def request(self) -> bytes:
        """The next request (none of ours has a body), b"" when there will be none."""
        data = b""
        while not data.endswith(b"\r\n\r\n"):
            more = self.socket.recv(65536)
            if not more:
                return b""
            data += more
        return data

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def head(self) -> None:
        self.send(HEAD)

    def chunk(self, data: bytes) -> None:
        self.send(b"%x\r\n%s\r\n" % (len(data), data))

    def end(self) -> None:
        self.send(b"0\r\n\r\n")

    def answer(self, *chunks: bytes) -> None:
        self.head()
        for data in chunks:
            self.chunk(data)
        self.end()

    def wait(self, seconds: float) -> None:
        """Do nothing, but not beyond the end of the test."""
        self.server.closing.wait(seconds)

    def reset(self) -> None:
        """Close with a RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


Script = Callable[[Peer], None]


class ScriptedServer:
    """Runs `script` in a thread of its own for each connection, and closes the connection after it."""

    def __init__(self, script: Script, backlog: int, tls: ssl.SSLContext | None) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=backlog)
        self.endpoint = Endpoint("127.0.0.1", self.listener.getsockname()[1])
        self.num_connections = 0
        self.closing = threading.Event()
        self.accepting = threading.Event()
        self.accepting.set()
        self._script = script
        self._tls = tls
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = []
        self._acceptor = threading.Thread(target=self._accept)
        self._acceptor.start()

    def close(self) -> None:
        self.closing.set()
        self.accepting.set()
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)  # wakes the acceptor, which closing alone does not
        self._acceptor.join()
        self.listener.close()
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for sock in self._sockets:
            sock.close()

    def _accept(self) -> None:
        while True:
            self.accepting.wait()
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.num_connections += 1
            self._sockets.append(sock)
            thread = threading.Thread(target=self._play, args=(sock,))
            self._threads.append(thread)
            thread.start()

    def _play(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_side=True)
                self._sockets.append(sock)
            with sock:
                self._script(Peer(self, sock))


Serve = Callable[..., ScriptedServer]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """`serve(script, backlog=…, tls=…)` starts a server that is gone after the test."""
    servers: list[ScriptedServer] = []

    def start(script: Script, backlog: int = 128, tls: ssl.SSLContext | None = None) -> ScriptedServer:
        servers.append(ScriptedServer(script, backlog, tls))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture(params=["native", "python"])
def each_reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both readers in turn; a compiled one that was not built is skipped."""
    monkeypatch.delenv(CHOICE, raising=False)
    if request.param == "native" and chosen_reader() is None:
        pytest.skip("the compiled reader was not built")
    monkeypatch.setenv(CHOICE, request.param)
    return str(request.param)


Load = Callable[..., tuple[LoadReport, dict[str, Timeline]]]


@pytest.fixture
def load() -> Load:
    """`load(endpoint, n or offsets in s, concurrency, …)` runs a load of requests "0", "1", …."""

    def run(
        endpoint: Endpoint,
        asked: int | list[float] = 1,
        concurrency: int | None = None,
        timeouts: TimeoutSpec | None = None,
        stop: StopFlag | None = None,
        on_done: Callable[[str, Timeline], None] | None = None,
        payload: bytes = b"POST /v1/completions HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n",
        start_ns: int | None = None,
    ) -> tuple[LoadReport, dict[str, Timeline]]:
        offsets: list[int | None]
        if isinstance(asked, int):
            offsets, concurrency = [None] * asked, concurrency or 1
        else:
            offsets = [round(offset * 1e9) for offset in asked]
        done: dict[str, Timeline] = {}

        def keep(request_id: str, timeline: Timeline) -> None:
            assert request_id not in done
            done[request_id] = timeline
            if on_done is not None:
                on_done(request_id, timeline)

        report = run_load(
            [
                Outgoing(str(index), offset, WireRequest("http", endpoint, payload))
                for index, offset in enumerate(offsets)
            ],
            concurrency=concurrency,
            timeouts=timeouts or TimeoutSpec(),
            on_done=keep,
            stop=stop or StopFlag(),
            start_ns=start_ns,
        )
        return report, done

    return run
