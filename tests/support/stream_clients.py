"""Clients of the reference engine's server by WebSocket and gRPC, which share nothing with it but the wire."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Request, TextMessage


class Caller:
    """One WebSocket. receive_buffer: what the system may hold of the answer until it is read, in bytes."""

    def __init__(self, url: str, path: str, receive_buffer: int | None = None) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self.socket = socket.socket()
        self.socket.settimeout(60)
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.connect((parts.hostname, parts.port or 80))
        self._protocol = WSConnection(ConnectionType.CLIENT)
        self.say(Request(host=parts.netloc, target=path))
        self._events = self._received()
        assert isinstance(next(self._events), AcceptConnection)

    def say(self, event: Any) -> None:
        self.socket.sendall(self._protocol.send(event))

    def messages(self) -> Iterator[str]:
        """Until the server closes; then `code` is why."""
        parts = ""
        for event in self._events:
            if isinstance(event, CloseConnection):
                self.code = event.code
                self.socket.close()
                return
            assert isinstance(event, TextMessage)
            parts += event.data
            if event.message_finished:
                yield parts
                parts = ""

    def _received(self) -> Iterator[Any]:
        while True:
            yield from self._protocol.events()
            data = self.socket.recv(65536)
            self._protocol.receive_data(data or None)


class Grpc:
    """A client as protoc's stubs would be."""

    def __init__(self, channel: grpc.Channel, described: bytes) -> None:
        pool = descriptor_pool.DescriptorPool()
        (file,) = descriptor_pb2.FileDescriptorSet.FromString(described).file
        pool.Add(file)
        self.message, reply = (
            message_factory.GetMessageClass(pool.FindMessageTypeByName(f"llmbench.Generate{name}"))
            for name in ("Request", "Reply")
        )
        self.generate = channel.unary_stream(
            "/llmbench.Generation/Generate",
            request_serializer=self.message.SerializeToString,
            response_deserializer=reply.FromString,
        )
