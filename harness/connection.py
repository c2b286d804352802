"""One connection to an engine: a non-blocking socket, read and written without a layer between it and the clock."""

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
from llmbench.harness.chunk_log import ChunkLog
from llmbench.harness.packet_clock import Flow, PacketClock
from llmbench.harness.read_poller import ReadPoller
from llmbench.harness.wall_offset import WallOffset

READ_BYTES = 64 * 1024

# Linux only, and absent from the socket module: receive stamps in CLOCK_REALTIME as a struct timespec.
SO_TIMESTAMPNS = 35
_TIMESPEC = struct.Struct("qq")
_unpack_timespec = _TIMESPEC.unpack
_ANCILLARY_BYTES = socket.CMSG_SPACE(_TIMESPEC.size)
# Offset of tcpi_data_segs_in in struct tcp_info, and the bytes to ask for to get it (Linux 4.6).
_DATA_SEGS_IN = struct.Struct("152xI")

# Of IPv4, of IPv6, and the path of a Unix socket.
AddressOfFamily = tuple[str, int] | tuple[str, int, int, int] | str
Address = tuple[int, AddressOfFamily]


class Reader(Protocol):
    """What takes the bytes of an answer as they are read."""

    @property
    def log(self) -> ChunkLog | None:
        """Where whole HTTP chunks may go instead of to `feed`, while it is between frames; None for nowhere."""
        ...

    def feed(self, data: bytes, read_ns: int, arrival_ns: int | None = None) -> bool:
        """True once the answer is complete or has failed; then feed no more."""
        ...

    def end_of_stream(self, read_ns: int) -> None: ...


class Listener(Protocol):
    """What a connection tells the request that uses it. It fills `reader` itself."""

    @property
    def reader(self) -> Reader: ...

    def connected(self, now_ns: int) -> None: ...

    def sent(self, now_ns: int) -> None: ...

    def answered(self) -> None:
        """The reader has its answer, or knows that none will come."""
        ...

    def broken(self, failure: Failure) -> None: ...


class Connection:
    """A TCP connection to the first of `addresses` that takes it.

    It serves one listener at a time; without one it is idle, and closes itself as soon as the server closes it or says
    anything. With `wall_offset`, reads carry the kernel's receive stamps; `packet_clock` watches its segments.
    """

    __slots__ = (
        "_addresses",
        "_listener",
        "_loop",
        "_num_reads",
        "_on_idle_close",
        "_packet_clock",
        "_poller",
        "_reader",
        "_recv",
        "_recvmsg",
        "_socket",
        "_surplus",
        "_unsent",
        "_wall_offset",
        "flow",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        poller: ReadPoller,
        addresses: Sequence[Address],
        wall_offset: WallOffset | None,
        packet_clock: PacketClock | None,
        on_idle_close: Callable[[Connection], None],
    ) -> None:
        self._loop = loop
        self._poller = poller
        self._addresses = list(addresses)
        self._wall_offset = wall_offset
        self._packet_clock = packet_clock
        self.flow: Flow | None = None
        self._on_idle_close = on_idle_close
        self._listener: Listener | None = None
        self._reader: Reader | None = None
        self._socket: socket.socket | None = None
        self._unsent = memoryview(b"")
        self._num_reads = 0
        # Segments received at the last count, less the reads until then; None when the two cannot be compared.
        self._surplus: int | None = 0

    def open(self, listener: Listener) -> None:
        """`listener.connected` follows, or `listener.broken`."""
        self._listener, self._reader = listener, listener.reader
        self._try_next_address(None)

    def is_good(self) -> bool:
        """Whether this idle connection can still take a request; if not, it is closed."""
        if self._socket is None:
            return False
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            pass
        # A byte or an end of stream is there: what the server said last is that it has finished with us.
        self.close()
        return False

    def take(self, listener: Listener) -> None:
        """Serve `listener` from now on; the connection is open and idle."""
        assert self._socket is not None
        self._listener, self._reader = listener, listener.reader
        self._poller.expect(self._socket.fileno(), listener.reader.log)

    def release(self) -> None:
        """Idle from now on."""
        assert self._socket is not None
        self._poller.expect(self._socket.fileno(), None)
        self._listener = self._reader = None

    def send(self, payload: bytes) -> None:
        """`listener.sent` follows when the kernel has taken the last byte."""
        self._unsent = memoryview(payload)
        self._write()

    def outlet(self) -> int | None:
        """The file descriptor to which a request may be written as it is; None where only `send` can."""
        return None if self._socket is None else self._socket.fileno()

    def was_sent(self, payload: bytes, num_sent: int, now_ns: int) -> None:
        """`payload` has been written to `outlet`, which took `num_sent` bytes by `now_ns`; -1: it refused."""
        self._unsent = memoryview(payload)
        # A server may refuse a request before it has all of it: reading tells whether there is an answer.
        if num_sent >= 0:
            self._took(num_sent, now_ns)

    def close(self) -> None:
        """No callback follows; closing twice is fine."""
        if self._socket is None:
            return
        self._poller.remove(self._socket.fileno())
        self._loop.remove_writer(self._socket)
        self._socket.close()
        self._socket = None
        self._listener = self._reader = None

    @property
    def is_open(self) -> bool:
        return self._socket is not None

    @property
    def is_sending(self) -> bool:
        return len(self._unsent) > 0

    def several_segments(self) -> bool:
        """Whether the network delivered the last read in more than one piece, as far as can be told: True in doubt."""
        if self._socket is None or sys.platform != "linux":
            return True
        before, self._surplus = self._surplus, None
        try:
            info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _DATA_SEGS_IN.size)
            surplus: int = _DATA_SEGS_IN.unpack(info)[0] - self._num_reads
        except (OSError, struct.error):
            return True
        try:
            # With bytes still unread, the count is ahead of the reads, and the next comparison would be too kind.
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            self._surplus = surplus
        if before is not None and surplus <= before:
            return False
        self._poller.note_coalesced()
        return True

    def _try_next_address(self, previous: OSError | None) -> None:
        if not self._addresses:
            reason = "no address" if previous is None else previous.strerror or str(previous)
            self._fail(FailureKind.CONNECT, f"Connecting failed: {reason}.")
            return
        family, address = self._addresses.pop(0)
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:
            self._try_next_address(error)
            return
        self._socket = sock
        sock.setblocking(False)
        # Bound once: they are called for every chunk.
        self._recv, self._recvmsg = sock.recv, sock.recvmsg
        self._set_options(sock)
        self._connect(sock, address)

    def _set_options(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._wall_offset is not None:
            sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)

    def _connect(self, sock: socket.socket, address: AddressOfFamily) -> None:
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
        if self._packet_clock is not None:
            self.flow = self._packet_clock.watch(self._socket.getsockname()[1], self._socket.getpeername()[1])
        self._poller.add(self._socket.fileno(), self)
        self._poller.expect(self._socket.fileno(), self._listener.reader.log)
        self._listener.connected(now_ns)

    def _write(self) -> None:
        assert self._socket is not None
        try:
            num_sent = self._socket.send(self._unsent)
        except (BlockingIOError, InterruptedError):
            num_sent = 0
        except OSError:
            # A server may refuse a request before it has all of it: reading tells whether there is an answer.
            return
        self._took(num_sent, perf_counter_ns())

    def _took(self, num_sent: int, now_ns: int) -> None:
        assert self._socket is not None
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

    def on_readable(self) -> None:
        """Read once."""
        # The hot path where reads are made in Python: once per chunk, so a call that can be spared is.
        arrival_ns = None
        wall_offset = self._wall_offset
        try:
            if wall_offset is None:
                data = self._recv(READ_BYTES)
                read_ns = perf_counter_ns()
            else:
                data, ancillary, _, _ = self._recvmsg(READ_BYTES, _ANCILLARY_BYTES)
                read_ns = perf_counter_ns()
                if ancillary:
                    seconds, nanoseconds = _unpack_timespec(ancillary[0][2])
                    arrival_ns = wall_offset.arrival_ns(seconds * 1_000_000_000 + nanoseconds, read_ns)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.on_read_error(error)
            return
        self._num_reads += 1
        if len(data) == READ_BYTES:
            assert self._socket is not None
            self._poller.again(self._socket.fileno())
        self._take_read(data, read_ns, arrival_ns)

    def on_read(self, data: bytes, read_ns: int, wall_ns: int | None, num_reads: int) -> None:
        """The poller has read `data`, and has read `num_reads` times."""
        if self._socket is None:
            return
        self._num_reads = num_reads
        arrival_ns = None
        if wall_ns is not None and self._wall_offset is not None:
            arrival_ns = self._wall_offset.arrival_ns(wall_ns, read_ns)
        self._take_read(data, read_ns, arrival_ns)

    def on_read_error(self, error: OSError) -> None:
        """Reading has failed."""
        self._fail(FailureKind.TRUNCATED, f"The connection broke before the answer was whole: {error}.")

    def _take_read(self, data: bytes, read_ns: int, arrival_ns: int | None) -> None:
        if len(data) == READ_BYTES:
            self._surplus = None  # a full buffer may have cut a segment in two, which then counts as two reads
        reader = self._reader
        if reader is None:
            self._drop_idle()
        elif not data:
            self._on_end_of_stream(read_ns)
        elif reader.feed(data, read_ns, arrival_ns) and self._listener is not None:
            self._listener.answered()

    def _on_end_of_stream(self, read_ns: int) -> None:
        assert self._reader is not None
        assert self._listener is not None
        self._reader.end_of_stream(read_ns)
        self._listener.answered()

    def _drop_idle(self) -> None:
        self.close()
        self._on_idle_close(self)

    def _fail(self, kind: FailureKind, message: str) -> None:
        listener = self._listener
        if listener is None:
            self._drop_idle()
        else:
            self.close()
            listener.broken(Failure(kind, message))
