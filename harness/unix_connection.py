"""A connection over a Unix socket: the same reads and writes, without TCP and its stamps below them."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable

from llmbench.harness.connection import AddressOfFamily, Connection
from llmbench.harness.read_poller import LoopPoller

# The kernel tells nobody when a listener's full queue has room again.
_QUEUE_FULL_S = 0.001


class UnixConnection(Connection):
    """A connection to the socket at `path`. Reads carry no kernel stamps: no network stack sees the bytes."""

    __slots__ = ()

    def __init__(self, loop: asyncio.AbstractEventLoop, path: str, on_idle_close: Callable[[Connection], None]) -> None:
        super().__init__(loop, LoopPoller(loop), [(socket.AF_UNIX, path)], None, None, on_idle_close)

    def several_segments(self) -> bool:
        return True

    def _set_options(self, sock: socket.socket) -> None:
        pass

    def _connect(self, sock: socket.socket, address: AddressOfFamily) -> None:
        if self._socket is not sock:  # given up while it waited
            return
        code = sock.connect_ex(address)
        if code == 0:
            self._on_connected()
        elif code == errno.EAGAIN:
            # TCP would wait for a place in the queue; so do we, for as long as the deadline lets us.
            self._loop.call_later(_QUEUE_FULL_S, self._connect, sock, address)
        else:
            self._abandon_address(code)
