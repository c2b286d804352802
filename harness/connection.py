"""One connection to an engine: a non-blocking TCP socket, read and written without a layer between it and the clock."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
import sys
from collections.abc import Callable, Sequence
from time import perf_counter_ns
from typing import Protocol

from llmbench.engines.wire import Failure, FailureKind
from llmbench.harness.wall_offset import WallOffset

READ_BYTES = 64 * 1024

# Linux only, and absent from the socket module: receive stamps in CLOCK_REALTIME as a struct timespec.
SO_TIMESTAMPNS = 35
_TIMESPEC = struct.Struct("qq")
_ANCILLARY_BYTES = socket.CMSG_SPACE(_TIMESPEC.size)
# Offset of tcpi_data_segs_in in struct tcp_info, and the bytes to ask for to get it (Linux 4.6).
_DATA_SEGS_IN = struct.Struct("164xI")

Address = tuple[int, tuple[str, int] | tuple[str, int, int, int]]


class Listener(Protocol):
    """What a connection tells the request that uses it."""

    def connected(self, now_ns: int) -> None: ...

    def sent(self, now_ns: int) -> None: ...

    def received(self, data: bytes, read_ns: int, arrival_ns: int | None) -> None: ...

    def ended(self, read_ns: int) -> None:
        """The server sends no more."""
        ...

    def broken(self, failure: Failure) -> None: ...


class Connection:
    """A TCP connection to the first of `addresses` that takes it.

    It serves one listener at a time; without one it is idle, and closes itself as soon as the server closes it or says
    anything. With `wall_offset`, reads carry the kernel's receive stamps.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        addresses: Sequence[Address],
        wall_offset: WallOffset | None,
        on_idle_close: Callable[[Connection], None],
    ) -> None:
        self._loop = loop
        self._addresses = list(addresses)
        self._wall_offset = wall_offset
        self._on_idle_close = on_idle_close
        self._listener: Listener | None = None
        self._socket: socket.socket | None = None
        self._unsent = memoryview(b"")
        self._reads_since_count: int | None = 0
        self._data_segs_in = 0

    def open(self, listener: Listener) -> None:
        """`listener.connected` follows, or `listener.broken`."""
        self._listener = listener
        self._try_next_address(None)

    def take(self, listener: Listener) -> bool:
        """Whether this idle connection is still good for a request by `listener`; if not, it is closed."""
        if self._socket is None:
            return False
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            self._listener = listener
            return True
        except OSError:
            pass
        # A byte or an end of stream is there: what the server said last is that it has finished with us.
        self.close()
        return False

    def release(self) -> None:
        """Idle from now on."""
        self._listener = None

    def send(self, payload: bytes) -> None:
        """`listener.sent` follows when the kernel has taken the last byte."""
        self._unsent = memoryview(payload)
        self._write()

    def close(self) -> None:
        """No callback follows; closing twice is fine."""
        if self._socket is None:
            return
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()
        self._socket = None
        self._listener = None

    @property
    def is_sending(self) -> bool:
        return len(self._unsent) > 0

    def several_segments(self) -> bool:
        """Whether the network delivered the last read in more than one piece, as far as can be told: True in doubt."""
        if self._socket is None or sys.platform != "linux":
            return True
        reads, before = self._reads_since_count, self._data_segs_in
        try:
            info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _DATA_SEGS_IN.size)
            (self._data_segs_in,) = _DATA_SEGS_IN.unpack(info)
            # With bytes still unread, the count is ahead of the reads, and the next comparison would be too kind.
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            self._reads_since_count = 0
        except (OSError, struct.error):
            return True
        else:
            self._reads_since_count = None
        return reads is None or self._data_segs_in - before > reads

    def _try_next_address(self, previous: OSError | None) -> None:
        if not self._addresses:
            reason = "no address" if previous is None else previous.strerror or str(previous)
            self._fail(FailureKind.CONNECT, f"Connecting failed: {reason}.")
            return
        family, address = self._addresses.pop(0)
        try:
            sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError as error:
            self._try_next_address(error)
            return
        self._socket = sock
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._wall_offset is not None:
            sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        code = sock.connect_ex(address)
        if code == 0:
            self._on_connected()
        elif code == errno.EINPROGRESS:
            self._loop.add_writer(sock, self._on_connect_result)
        else:
            self._abandon_address(code)

    def _on_connect_result(self) -> None:
        assert self._socket is not None
        self._loop.remove_writer(self._socket)
        code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code == 0:
            self._on_connected()
        else:
            self._abandon_address(code)

    def _abandon_address(self, code: int) -> None:
        assert self._socket is not None
        self._socket.close()
        self._socket = None
        self._try_next_address(OSError(code, os.strerror(code)))

    def _on_connected(self) -> None:
        assert self._socket is not None
        assert self._listener is not None
        now_ns = perf_counter_ns()
        self._loop.add_reader(self._socket, self._on_readable)
        self._listener.connected(now_ns)

    def _write(self) -> None:
        assert self._socket is not None
        try:
            num_sent = self._socket.send(self._unsent)
        except (BlockingIOError, InterruptedError):
            num_sent = 0
        except OSError as error:
            self._fail(FailureKind.TRUNCATED, f"The connection broke while the request was being sent: {error}.")
            return
        now_ns = perf_counter_ns()
        self._unsent = self._unsent[num_sent:]
        if self._unsent:
            self._loop.add_writer(self._socket, self._on_writable)
        else:
            self._on_sent(now_ns)

    def _on_writable(self) -> None:
        assert self._socket is not None
        self._loop.remove_writer(self._socket)
        self._write()

    def _on_sent(self, now_ns: int) -> None:
        if self._listener is not None:
            self._listener.sent(now_ns)

    def _on_readable(self) -> None:
        assert self._socket is not None
        arrival_ns = None
        try:
            if self._wall_offset is None:
                data = self._socket.recv(READ_BYTES)
                read_ns = perf_counter_ns()
            else:
                data, ancillary, _, _ = self._socket.recvmsg(READ_BYTES, _ANCILLARY_BYTES)
                read_ns = perf_counter_ns()
                if ancillary:
                    seconds, nanoseconds = _TIMESPEC.unpack(ancillary[0][2])
                    arrival_ns = self._wall_offset.to_perf_ns(seconds * 1_000_000_000 + nanoseconds, read_ns)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._fail(FailureKind.TRUNCATED, f"The connection broke before the answer was whole: {error}.")
            return
        if self._reads_since_count is not None:
            # A full buffer may have cut a segment in two, which would then count as two reads.
            self._reads_since_count = self._reads_since_count + 1 if len(data) < READ_BYTES else None
        self._take(data, read_ns, arrival_ns)

    def _take(self, data: bytes, read_ns: int, arrival_ns: int | None) -> None:
        listener = self._listener
        if listener is None:
            self.close()
            self._on_idle_close(self)
        elif data:
            listener.received(data, read_ns, arrival_ns)
        else:
            listener.ended(read_ns)

    def _fail(self, kind: FailureKind, message: str) -> None:
        listener = self._listener
        self.close()
        if listener is None:
            self._on_idle_close(self)
        else:
            listener.broken(Failure(kind, message))
