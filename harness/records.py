"""From what the transport saw to the rows that are stored."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from llmbench.engines.adapter import Adapter, CountTokens
from llmbench.engines.wire import Timeline
from llmbench.harness.plan import PlannedRequest, Trial
from llmbench.results.records import ChunkRecord, RequestRecord


class Decoded(NamedTuple):
    """What is stored of one attempt; the text, and the ids of its tokens, only where there is room for it."""

    record: RequestRecord
    chunks: list[ChunkRecord]
    text: str
    token_ids: tuple[int, ...] | None


def to_records(
    trial: Trial,
    planned: PlannedRequest,
    timeline: Timeline,
    adapter: Adapter,
    count_tokens: CountTokens | None,
) -> Decoded:
    """The request's row, one row per stamped read and the answer's text, decoded by the engine's adapter.

    The failure is the adapter's, which has seen the transport's and knows whether the server explained it; where it
    names none, the transport's. Tokens that arrived before a failure stay counted. The prompt's length is the engine's
    own count where it gives one, else the planned one.
    """
    answer = adapter.decode(planned.generation, timeline, count_tokens)
    failure = answer.failure or timeline.failure
    request_id = planned.request_id if timeline.attempt == 1 else f"{planned.request_id}#{timeline.attempt}"
    chunks = [
        ChunkRecord(
            request_id=request_id,
            index=event.chunk,
            t_ns=timeline.stamp_ns(event.chunk),
            tokens=event.tokens,
            chars=len(event.text),
            read_ns=timeline.chunk_ns[event.chunk],
            coalesced=timeline.coalesced[event.chunk] if timeline.coalesced else False,
        )
        for event in answer.events
    ]
    generated_ns = [chunk.t_ns for chunk in chunks if chunk.tokens > 0 or chunk.chars > 0]
    record = RequestRecord(
        request_id=request_id,
        engine=trial.engine.label,
        level=trial.level,
        round=trial.round,
        index=planned.index,
        warmup=planned.warmup,
        due_ns=timeline.due_ns if timeline.first_due_ns is None else timeline.first_due_ns,
        connect_ns=timeline.connect_ns,
        sent_ns=timeline.sent_ns,
        first_byte_ns=timeline.first_byte_ns,
        first_token_ns=generated_ns[0] if generated_ns else None,
        last_token_ns=generated_ns[-1] if generated_ns else None,
        end_ns=timeline.end_ns,
        prompt_tokens=planned.prompt_tokens if answer.prompt_tokens is None else answer.prompt_tokens,
        output_tokens=answer.output_tokens,
        requested_tokens=planned.generation.max_tokens,
        token_source=None if answer.token_source is None else str(answer.token_source),
        finish_reason=answer.finish_reason,
        status="ok" if failure is None else "failed",
        http_status=timeline.status,
        error_kind=None if failure is None else str(failure.kind),
        error=None if failure is None else failure.message,
        output_sha256=hashlib.sha256(answer.text.encode()).hexdigest() if failure is None else None,
        attempt=timeline.attempt,
        attempt_due_ns=None if timeline.attempt == 1 else timeline.due_ns,
        begun_ns=timeline.begun_ns,
        population=planned.population,
    )
    return Decoded(record, chunks, answer.text, answer.token_ids)
