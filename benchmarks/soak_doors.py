"""The doors of the server, asked so that an answer is the same JSON whichever it came through.

A door sends one request on a connection of its own (gRPC: on a call of its own) and leaves when its patience ends. What
it returns has HTTP's status: a close code of WebSocket and a status of gRPC are told as the one that means the same.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import grpc.aio
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Event, Ping, RejectConnection, Request, TextMessage

from llmbench.reference_engine.server.grpc_service import SERVICE, load_messages

COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"

_OF_CLOSE_CODE = {1000: 200, 1008: 400, 1011: 500, 1013: 503}
_OF_GRPC_CODE = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNAVAILABLE: 503,
}
_MESSAGES = load_messages()


class Ports(NamedTuple):
    http: int
    grpc: int


class Patience(NamedTuple):
    """When a client leaves: so long after it sent its request, or after so many reads of the answer."""

    seconds: float
    reads: int = sys.maxsize


@dataclass
class Reply:
    """`status` is 0 as long as there is none; `payloads` are the answer's JSON texts, [DONE] left out."""

    status: int = 0
    payloads: list[bytes] = field(default_factory=list)
    is_whole: bool = False


Door = Callable[[Ports, str, bytes, Patience], Awaitable[Reply]]


async def by_http(ports: Ports, path: str, body: bytes, patience: Patience) -> Reply:
    """Raises ValueError for a stream that ends without [DONE]."""
    reader, writer = await asyncio.open_connection("127.0.0.1", ports.http)
    answer, is_whole = b"", False
    try:
        head = f"POST {path} HTTP/1.1\r\nhost: soak\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        async with asyncio.timeout(patience.seconds):
            for _ in range(patience.reads):
                data = await reader.read(65536)
                answer += data
                if is_whole := not data:
                    break
    except TimeoutError:
        pass
    finally:
        writer.close()
    head, _, content = answer.decode("latin-1").partition("\r\n\r\n")
    reply = Reply(int(head.split()[1]) if is_whole or content else 0, is_whole=is_whole)
    body = content.encode("latin-1")
    if "chunked" in head:
        body = b"".join(_chunks(body))
    if body.startswith(b"data:"):
        # Behind the last empty line is the beginning of an event, or nothing.
        reply.payloads = [event.removeprefix(b"data: ") for event in body.split(b"\n\n")[:-1]]
        _take_done(reply)
    elif is_whole:
        reply.payloads = [body]
    return reply


def _chunks(body: bytes) -> Iterator[bytes]:
    while body:
        size, _, body = body.partition(b"\r\n")
        length = int(size or b"0", 16)
        yield body[:length]
        body = body[length + 2 :]


def _take_done(reply: Reply) -> None:
    if reply.payloads and reply.payloads[-1] == b"[DONE]":
        reply.payloads.pop()
    elif reply.is_whole:
        raise ValueError(f"a stream ends in {reply.payloads[-1:]}")


async def by_websocket(ports: Ports, path: str, body: bytes, patience: Patience) -> Reply:
    """Raises ValueError for a stream that ends without [DONE], and for a socket that is not closed as it should be."""
    reader, writer = await asyncio.open_connection("127.0.0.1", ports.http)
    socket, reply, text = WSConnection(ConnectionType.CLIENT), Reply(), ""

    def answered(event: Event) -> bytes:
        """What to send in return; fills the reply."""
        nonlocal text
        match event:
            case AcceptConnection():
                return socket.send(TextMessage(body.decode()))
            case TextMessage():
                text += event.data
                if event.message_finished:
                    reply.payloads.append(text.encode())
                    text = ""
                reply.status = 200
            case Ping():
                return socket.send(event.response())
            case CloseConnection():
                if event.code not in _OF_CLOSE_CODE:
                    raise ValueError(f"a socket is closed with {event.code}")
                reply.status, reply.is_whole = _OF_CLOSE_CODE[event.code], True
                return socket.send(event.response())
            case RejectConnection():
                reply.status, reply.is_whole = event.status_code, True
        return b""

    try:
        writer.write(socket.send(Request(host="soak", target=path)))
        async with asyncio.timeout(patience.seconds):
            for _ in range(patience.reads):
                socket.receive_data(await reader.read(65536) or None)
                for event in socket.events():
                    writer.write(answered(event))
                if reply.is_whole:
                    break
    except TimeoutError:
        pass
    finally:
        writer.close()
    if reply.status == 200 and (not reply.is_whole or json.loads(body)["stream"]):
        _take_done(reply)
    return reply


async def by_grpc(ports: Ports, path: str, body: bytes, patience: Patience) -> Reply:
    """The path is of no matter: a body with messages is a chat."""
    reply = Reply()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{ports.grpc}") as channel:
        call = channel.unary_stream(f"/{SERVICE}/Generate")(_grpc_request(body))
        try:
            async with asyncio.timeout(patience.seconds):
                for _ in range(patience.reads):
                    message = await call.read()
                    if message is grpc.aio.EOF:
                        reply.is_whole = True
                        break
                    reply.payloads.append(_as_chunk(message))
                reply.status = 200
        except TimeoutError:
            reply.status = 200 if reply.payloads else 0
        except grpc.aio.AioRpcError as error:
            reply.status, reply.is_whole = _OF_GRPC_CODE.get(error.code(), 500), True
            reply.payloads = [str(error.details()).encode()]
        finally:
            call.cancel()
    return reply


def for_grpc(body: dict[str, Any]) -> dict[str, Any] | None:
    """The request that asks by gRPC for the same text; None where there is none.

    Its replies always name their tokens and never have log-probabilities, and a call has one prompt.
    """
    if "prompt" in body and not isinstance(body["prompt"], str) and not isinstance(body["prompt"][0], int):
        return None
    kept = {name: value for name, value in body.items() if name not in ("logprobs", "top_logprobs")}
    return {**kept, "return_token_ids": True}


def _grpc_request(body: bytes) -> bytes:
    try:
        given = json.loads(body)
    except ValueError:
        return b"\xff"
    for name in ("stream", "return_token_ids"):
        given.pop(name, None)
    given = {name: value for name, value in given.items() if value is not None}
    request = _MESSAGES["GenerateRequest"]
    if isinstance(given.get("prompt"), list):
        given["prompt_token_ids"] = given.pop("prompt")
    if isinstance(given.get("stop"), str):
        given["stop"] = [given["stop"]]
    fields = {name: given.pop(name) for name in request.DESCRIPTOR.fields_by_name if name in given}
    encoded: bytes = request(**fields, extra_json=json.dumps(given)).SerializeToString()
    return encoded


def _as_chunk(message: bytes) -> bytes:
    reply = _MESSAGES["GenerateReply"].FromString(message)
    choice = {"index": reply.index, "text": reply.text, "token_ids": list(reply.token_ids)}
    return json.dumps({"choices": [{**choice, "finish_reason": reply.finish_reason or None}]}).encode()
