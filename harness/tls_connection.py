"""A connection with TLS on top: the same socket, with the cipher between it and the request."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from time import perf_counter_ns

from llmbench.engines.wire import FailureKind
from llmbench.harness.connection import READ_BYTES, Address, Connection
from llmbench.harness.read_poller import LoopPoller


class TlsConnection(Connection):
    """A verified TLS connection; `connected` comes after the handshake, `sent` when the last record is with the kernel.

    Reads carry no kernel stamps: a record may need several segments, and one segment may hold several records.
    """

    __slots__ = ("_host", "_incoming", "_outgoing", "_shaking_hands", "_tls")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        addresses: Sequence[Address],
        context: ssl.SSLContext,
        host: str,
        on_idle_close: Callable[[Connection], None],
    ) -> None:
        super().__init__(loop, LoopPoller(loop), addresses, None, None, on_idle_close)
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._host = host
        self._shaking_hands = True

    def send(self, payload: bytes) -> None:
        self._tls.write(payload)
        super().send(self._outgoing.read())

    def outlet(self) -> None:
        """None: the cipher comes first."""

    def several_segments(self) -> bool:
        return True

    def _on_connected(self) -> None:
        assert self._socket is not None
        self._poller.add(self._socket.fileno(), self)
        self._shake_hands()

    def _on_sent(self, now_ns: int) -> None:
        if not self._shaking_hands:
            super()._on_sent(now_ns)

    def _shake_hands(self) -> None:
        done = True
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            done = False
        except ssl.SSLCertVerificationError as error:
            self._flush()
            reason = error.verify_message.rstrip(".")
            self._fail(FailureKind.TLS, f"The certificate of {self._host} does not hold: {reason}.")
            return
        except ssl.SSLError as error:
            self._flush()
            self._fail(FailureKind.TLS, f"The TLS handshake with {self._host} failed: {error.reason or error}.")
            return
        self._flush()
        if done and self._listener is not None:
            self._shaking_hands = False
            self._listener.connected(perf_counter_ns())

    def _flush(self) -> None:
        """Send what the cipher has to say: a handshake message, an alert, a key update."""
        if self._socket is not None and self._outgoing.pending:
            # Behind whatever of the request the kernel has not taken yet.
            super().send(bytes(self._unsent) + self._outgoing.read())

    def on_readable(self) -> None:
        assert self._socket is not None
        try:
            data = self._recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            if self._shaking_hands:
                self._fail(FailureKind.TLS, f"{self._host} broke off the TLS handshake: {error.strerror or error}.")
            else:
                self._fail(FailureKind.TRUNCATED, f"The connection broke before the answer was whole: {error}.")
            return
        read_ns = perf_counter_ns()
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()
        if self._shaking_hands:
            if data:
                self._shake_hands()
            else:
                self._fail(FailureKind.TLS, f"{self._host} closed the connection during the TLS handshake.")
        if self._shaking_hands or not self.is_open:
            return
        plain, ended = self._decrypt()
        if self._reader is None:
            if plain or ended:  # not so for a session ticket, which may come at any time
                self._drop_idle()
        elif plain and self._reader.feed(plain, read_ns):
            assert self._listener is not None
            self._listener.answered()
        elif ended:
            self._on_end_of_stream(read_ns)

    def _decrypt(self) -> tuple[bytes, bool]:
        """What could be read, and whether the server said that there is no more."""
        parts: list[bytes] = []
        try:
            while part := self._tls.read(READ_BYTES):
                parts.append(part)
        except ssl.SSLWantReadError:
            return b"".join(parts), False
        except ssl.SSLZeroReturnError:
            return b"".join(parts), True
        except ssl.SSLEOFError:
            # No close_notify. Framing says whether that cuts the answer; a body without a length cannot be trusted.
            return b"".join(parts), True
        except ssl.SSLError as error:
            self._fail(FailureKind.TLS, f"The TLS connection to {self._host} broke: {error.reason or error}.")
            return b"", False
        return b"".join(parts), True
