"""The record schema: one row per request, one row per stamped chunk. Times are int ns on one monotonic clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

RequestStatus = Literal["ok", "failed"]


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One request as measured. A stamp that never came, or a count nobody gave, is None; a failed request is a row.

    `request_id` is unique within a run. `level` names the load level, `round` counts from 0. `due_ns` is when the
    schedule wanted the request sent; `begun_ns` when the load generator began to connect or, where it was connected, to
    send; `connect_ns` when a connected socket was at hand; `sent_ns` when its bytes were with the kernel;
    `first_token_ns` and `last_token_ns` stamp the first and last chunk with generated content.

    A request that was sent again after a failure has a row for each `attempt`, with the same engine, level, round and
    index, and the last one decides what became of it. `due_ns` is that of the first attempt in all of them, and
    `attempt_due_ns` when this one was to go; None where that is `due_ns`. `population` names whom a mixed
    workload has ask.
    """

    request_id: str
    engine: str
    level: str
    round: int
    index: int
    warmup: bool
    due_ns: int
    connect_ns: int | None
    sent_ns: int | None
    first_byte_ns: int | None
    first_token_ns: int | None
    last_token_ns: int | None
    end_ns: int | None
    prompt_tokens: int | None
    output_tokens: int | None
    requested_tokens: int
    token_source: str | None
    finish_reason: str | None
    status: RequestStatus
    http_status: int | None
    error_kind: str | None
    error: str | None
    output_sha256: str | None
    attempt: int = 1
    attempt_due_ns: int | None = None
    begun_ns: int | None = None
    population: str | None = None


@dataclass(frozen=True, slots=True)
class ChunkRecord:
    """One stamped read of a request's answer. `tokens` and `chars` count generated content in it, possibly 0.

    `t_ns` is the truest stamp there is of its arrival, `read_ns` when the read that delivered it returned (None where
    that is not known apart); the difference is the instrument's own lag. `coalesced` says that the read delivered
    several network segments, so that `t_ns` is right for the last of them only.
    """

    request_id: str
    index: int
    t_ns: int
    tokens: int
    chars: int
    read_ns: int | None = None
    coalesced: bool = False
