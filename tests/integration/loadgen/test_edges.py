"""An edge tells once that something arrived: nothing that a read left behind may be forgotten."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
import time

import pytest

from llmbench.engines.wire import Failure, Timeline
from llmbench.harness.connection import READ_BYTES, Connection
from llmbench.harness.epoll_reads import EpollReads
from llmbench.harness.native_reads import NativeReads, chosen_reader
from llmbench.harness.read_poller import RestingPoller, nothing_due
from llmbench.harness.response_reader import ResponseReader
from llmbench.harness.wall_offset import WallOffset

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="epoll is Linux's")


class Waiting:
    """A request that stops the loop once it is answered."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.timeline = Timeline(due_ns=0)
        self.reader = ResponseReader(self.timeline)

    def connected(self, now_ns: int) -> None:
        # Everything has arrived, and the end with it, before the first poll.
        time.sleep(0.2)

    def sent(self, now_ns: int) -> None:
        pass

    def answered(self) -> None:
        self._loop.stop()

    def broken(self, failure: Failure) -> None:
        self.timeline.failure = failure
        self._loop.stop()


def answer_to(payload: bytes, reader: str, then_close: bool) -> Timeline:
    """What becomes of `payload`, sent by a server as soon as it is connected."""
    loop = asyncio.new_event_loop()
    native = chosen_reader()
    reads = EpollReads(nothing_due) if reader == "python" else NativeReads(native, WallOffset(), nothing_due)
    poller = RestingPoller(loop, reads)
    over = threading.Event()

    def serve(listener: socket.socket) -> None:
        peer, _ = listener.accept()
        with peer:
            peer.sendall(payload)
            if not then_close:
                over.wait(10)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=serve, args=(listener,))
        server.start()
        request = Waiting(loop)
        connection = Connection(
            loop, poller, [(socket.AF_INET, listener.getsockname())], None, None, lambda connection: None
        )
        connection.open(request)
        guard = loop.call_later(10, loop.stop)
        loop.run_forever()
        guard.cancel()
        over.set()
        server.join()
    connection.close()
    poller.close()
    loop.close()
    return request.timeline


def test_a_close_behind_the_data_is_seen(each_reader: str) -> None:
    timeline = answer_to(b"HTTP/1.1 200 OK\r\n\r\nuntil the end", each_reader, then_close=True)
    assert timeline.failure is None
    assert b"".join(timeline.chunk_bytes) == b"until the end"


def test_more_than_one_read_holds_is_read_to_its_end(each_reader: str) -> None:
    body = b"x" * (3 * READ_BYTES)
    payload = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    timeline = answer_to(payload, each_reader, then_close=False)
    assert timeline.failure is None
    assert timeline.end_ns is not None
    assert b"".join(timeline.chunk_bytes) == body
