"""The seam between an engine's protocol and the clock.

`Adapter.encode` turns a `GenerationRequest` into bytes before the clock starts; a transport fills a `Timeline` with
stamps and raw body bytes and understands nothing; `Adapter.decode` reads the `Timeline` afterwards. Both ends are pure,
so a test feeds them captured bytes. All times are `time.perf_counter_ns()` of one host, as int nanoseconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

Transport = Literal["http", "grpc", "websocket", "hub"]


class FailureKind(StrEnum):
    """Why a request did not end well. The value is what `requests.parquet` stores in `error_kind`."""

    DNS = "dns"
    CONNECT = "connect"
    TLS = "tls"
    CONNECT_TIMEOUT = "connect_timeout"
    FIRST_TOKEN_TIMEOUT = "first_token_timeout"  # noqa: S105
    IDLE_TIMEOUT = "idle_timeout"
    TOTAL_TIMEOUT = "total_timeout"
    HTTP_STATUS = "http_status"
    RATE_LIMITED = "rate_limited"
    SERVER_ERROR = "server_error"
    TRUNCATED = "truncated"
    MALFORMED = "malformed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed request: a kind from the fixed taxonomy and a sentence for people."""

    kind: FailureKind
    message: str


class TokenSource(StrEnum):
    """Where a token count came from, most trustworthy first."""

    TOKEN_IDS = "token_ids"  # noqa: S105
    USAGE_DELTA = "usage_delta"
    LOGPROBS = "logprobs"
    SERVER_COUNT = "server_count"
    RETOKENISED = "retokenised"
    ASSUMED_ONE = "assumed_one"


@dataclass(frozen=True, slots=True)
class ChatMessage:
    role: str
    content: str


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One question in no engine's dialect. Exactly one of `prompt` and `messages` is set.

    `temperature == 0` asks for greedy decoding. `ignore_eos` asks the engine to produce exactly `max_tokens`.
    `token_ids` asks for the ids of the answer's tokens, where the engine has a way to tell them.
    """

    request_id: str
    model: str
    max_tokens: int
    prompt: str | None = None
    messages: tuple[ChatMessage, ...] | None = None
    stream: bool = True
    ignore_eos: bool = True
    token_ids: bool = False
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an engine listens. `api_key` is sent, and never written to a log, a manifest or a report.

    `tls_ca` is a PEM file of the authorities to trust in place of the system's. With `unix_path` the engine listens on
    that Unix socket, and `host` is only what it is called in a request. `websocket` asks for requests over WebSocket.
    """

    host: str
    port: int
    base_path: str = ""
    tls: bool = False
    api_key: str | None = field(default=None, repr=False)
    tls_ca: str | None = None
    unix_path: str | None = None
    websocket: bool = False

    @property
    def is_plain_tcp(self) -> bool:
        """Whether the bytes sent are those that the network stack sees in its segments."""
        return not self.tls and self.unix_path is None

    @property
    def url(self) -> str:
        if self.unix_path is not None:
            return f"unix://{self.unix_path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        scheme = "ws" if self.websocket else "http"
        return f"{scheme}{'s' if self.tls else ''}://{host}:{self.port}{self.base_path}"


@dataclass(frozen=True, slots=True)
class WireRequest:
    """Bytes ready to send. By http `payload` is the whole HTTP/1.1 request, head and body; by grpc it is the only
    message of a call to `method` (/package.Service/Method); by websocket the only message, of text, sent to the path
    `method`; by hub the arguments of huggingface_hub's `text_generation`, as JSON.

    `may_cancel` is false where a server comes to harm when it loses a client: then a call that has been given up goes
    on unheard.
    """

    transport: Transport
    endpoint: Endpoint
    payload: bytes
    method: str = ""
    may_cancel: bool = True


@dataclass(slots=True)
class Timeline:
    """What the transport saw of one request, in the order it happened. A stamp that never came is None.

    `due_ns` is when the schedule wanted the request sent, `begun_ns` when the load generator began to connect or, where
    it was connected, to send, `connect_ns` when a connected socket was at hand (reused or new), `sent_ns` when its
    bytes had been handed to the kernel, `first_byte_ns` when the first byte of the answer was there. `chunk_ns[i]`
    stamps the return of the read that delivered `chunk_bytes[i]`: body bytes with HTTP chunk framing removed, one entry
    per read, however many server events it carried; by gRPC and WebSocket one message. `end_ns` is when the answer was
    complete or given up.

    `arrival_ns[i]`, where the platform tells, is when the network stack received the last byte of `chunk_bytes[i]`; it
    is the truer stamp, and `chunk_ns[i]` minus it is how late the reader was. `coalesced[i]` says that several network
    segments came in one read, so that its stamp is right for the last of them only. A transport that knows neither
    leaves both lists empty.

    `attempt` counts how often the request has been sent, from 1. `first_due_ns` is when its first attempt was due, None
    for that attempt itself; `retry_due_ns` when the next attempt is, None where none follows.
    """

    due_ns: int
    connect_ns: int | None = None
    sent_ns: int | None = None
    first_byte_ns: int | None = None
    status: int | None = None
    headers: list[tuple[str, str]] = field(default_factory=list)
    chunk_ns: list[int] = field(default_factory=list)
    chunk_bytes: list[bytes] = field(default_factory=list)
    arrival_ns: list[int | None] = field(default_factory=list)
    coalesced: list[bool] = field(default_factory=list)
    end_ns: int | None = None
    failure: Failure | None = None
    attempt: int = 1
    first_due_ns: int | None = None
    retry_due_ns: int | None = None
    begun_ns: int | None = None

    @property
    def connecting_ns(self) -> int:
        """What of the time between due and sent went into connecting, which takes as long as the server likes."""
        return 0 if self.begun_ns is None or self.connect_ns is None else self.connect_ns - self.begun_ns

    def stamp_ns(self, chunk: int) -> int:
        """When chunk `chunk` arrived, by the truest clock that saw it."""
        arrival_ns = self.arrival_ns[chunk] if self.arrival_ns else None
        return self.chunk_ns[chunk] if arrival_ns is None else arrival_ns


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """What one stamped read (`Timeline.chunk_ns[chunk]`) carried: generated tokens and characters, possibly none."""

    chunk: int
    tokens: int
    text: str


@dataclass(frozen=True, slots=True)
class DecodedAnswer:
    """A `Timeline` understood. One `TokenEvent` per stamped read; their tokens sum to `output_tokens`.

    `token_ids` are the ids of the answer's `output_tokens` tokens, as the engine told them; None where it did not.
    """

    events: tuple[TokenEvent, ...]
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    token_source: TokenSource | None = None
    token_ids: tuple[int, ...] | None = None
    finish_reason: str | None = None
    failure: Failure | None = None

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events)
