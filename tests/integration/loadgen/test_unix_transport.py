"""Requests over a real Unix socket: the same Timeline, stamped in user space."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmbench.engines import registry
from llmbench.engines.wire import Endpoint, FailureKind
from llmbench.workloads.spec import TimeoutSpec

ANSWER = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "engine.sock"


@contextlib.contextmanager
def listening(path: Path, backlog: int = 128) -> Iterator[tuple[socket.socket, list[bytes]]]:
    """A server with keep-alive that answers every request alike; the heads it was sent."""
    heads: list[bytes] = []
    peers: list[socket.socket] = []

    def serve(peer: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while head := peer.recv(65536):
                heads.append(head)
                peer.sendall(ANSWER)

    def accept() -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            peers.append(peer)
            threads.append(threading.Thread(target=serve, args=(peer,)))
            threads[-1].start()

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen(backlog)
        threads = [threading.Thread(target=accept)]
        threads[0].start()
        try:
            yield listener, heads
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            threads[0].join()
            for peer in peers:
                with contextlib.suppress(OSError):
                    peer.shutdown(socket.SHUT_RDWR)
            for thread in threads[1:]:
                thread.join()
            for peer in peers:
                peer.close()


def test_answers_come_with_user_space_stamps(path: Path, load: Any) -> None:
    with listening(path) as (_, heads):
        report, done = load(registry.url_endpoint(f"unix://{path}"), 3)
    assert report.instrument.clock == "user space"
    for timeline in done.values():
        assert timeline.failure is None
        assert b"".join(timeline.chunk_bytes) == b"onetwo"
        assert timeline.due_ns <= timeline.connect_ns < timeline.sent_ns < timeline.chunk_ns[0] <= timeline.end_ns
        assert set(timeline.arrival_ns) <= {None}
    assert len(heads) == 3


def test_more_connections_at_once_than_the_queue_holds(path: Path, load: Any) -> None:
    with listening(path, backlog=1):
        _, done = load(Endpoint("localhost", 80, unix_path=str(path)), [0.0] * 40)
    assert [timeline.failure for timeline in done.values()] == [None] * 40


def test_a_socket_that_is_not_there(path: Path, load: Any) -> None:
    _, done = load(Endpoint("localhost", 80, unix_path=str(path)))
    assert done["0"].failure.kind is FailureKind.CONNECT
    assert "No such file" in done["0"].failure.message


def test_a_queue_that_stays_full(path: Path, load: Any) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener, contextlib.ExitStack() as stack:
        listener.bind(str(path))
        listener.listen(0)
        with contextlib.suppress(BlockingIOError):
            for _ in range(4):
                waiting = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
                waiting.setblocking(False)
                waiting.connect(str(path))
        _, done = load(Endpoint("localhost", 80, unix_path=str(path)), timeouts=TimeoutSpec(connect_s=0.2))
    assert done["0"].failure.kind is FailureKind.CONNECT_TIMEOUT
