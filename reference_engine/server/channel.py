"""What the server and its engine process say to each other, and the frames it travels in.

A frame is a 4-byte length and a pickle. Both ends are the same program, one started by the other over a private socket
pair, so that pickle reads nothing that anybody else wrote.
"""

from __future__ import annotations

import pickle
import socket
import struct
from typing import Any, NamedTuple

from llmbench.reference_engine.beam_search import BeamParams
from llmbench.reference_engine.limits import Limits
from llmbench.reference_engine.outputs import EngineStats, StepOutput
from llmbench.reference_engine.sampling import SamplingParams

_LENGTH = struct.Struct("!I")
_READ_BYTES = 1 << 18


class Submit(NamedTuple):
    """To the engine: serve this. Answered by Refused, or by outputs until one has a finish reason."""

    request_id: str
    prompt_token_ids: list[int]
    params: SamplingParams | BeamParams
    priority: int
    user: str | None


class Finish(NamedTuple):
    """To the engine: no more of this request is wanted; `aborted` unless a stop string ended it. Never answered."""

    request_id: str
    aborted: bool


class Ready(NamedTuple):
    """From the engine, once: the model is loaded."""

    limits: Limits
    stats: EngineStats


class CannotStart(NamedTuple):
    """From the engine, in place of Ready: one sentence for the user, after which it ends."""

    message: str


class Refused(NamedTuple):
    """From the engine: this request could never be served."""

    request_id: str
    message: str


class Stepped(NamedTuple):
    """From the engine: what one step brought, and how it stands after it."""

    outputs: list[StepOutput]
    stats: EngineStats


def frame(message: object) -> bytes:
    content = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(content)) + content


class FrameReader:
    """Bytes as they come to whole messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Any]:
        self._buffer += data
        messages: list[Any] = []
        start, end = 0, _LENGTH.size
        while end <= len(self._buffer):
            (length,) = _LENGTH.unpack_from(self._buffer, start)
            start, end = end, end + length
            if end > len(self._buffer):
                start -= _LENGTH.size
                break
            messages.append(pickle.loads(self._buffer[start:end]))  # noqa: S301 - our own other half wrote it
            start, end = end, end + _LENGTH.size
        del self._buffer[:start]
        return messages


class BlockingChannel:
    """The engine's end: it waits while it has nothing to do, and only looks while it has."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._reader = FrameReader()

    def receive(self, wait: bool) -> list[Any]:
        """The messages that have come; with `wait`, at least one. Raises EOFError when the server is gone."""
        messages: list[Any] = []
        while True:
            try:
                data = self._socket.recv(_READ_BYTES, 0 if wait and not messages else socket.MSG_DONTWAIT)
            except BlockingIOError:
                return messages
            except ConnectionError:
                data = b""
            if not data:
                raise EOFError
            messages += self._reader.feed(data)

    def send(self, message: object) -> None:
        """Raises EOFError when the server is gone."""
        try:
            self._socket.sendall(frame(message))
        except ConnectionError:
            raise EOFError from None
