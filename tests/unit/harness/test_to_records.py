"""From a timeline to rows: which stamps, which counts, which failure."""

from __future__ import annotations

from llmbench.engines.adapter import Capabilities, CountTokens, EngineOptions, LaunchPlan
from llmbench.engines.wire import (
    DecodedAnswer,
    Endpoint,
    Failure,
    FailureKind,
    GenerationRequest,
    Timeline,
    TokenEvent,
    TokenSource,
    WireRequest,
)
from llmbench.harness.plan import PlannedRequest, Trial
from llmbench.harness.records import to_records
from llmbench.results.records import ChunkRecord, RequestRecord
from llmbench.workloads.arrivals import BurstArrivals
from llmbench.workloads.spec import EngineSpec

REQUEST = GenerationRequest(request_id="r", model="m", max_tokens=4, prompt="hello")
PLANNED = PlannedRequest("r", index=7, due_offset_ns=0, generation=REQUEST, warmup=False, prompt_tokens=3)
TRIAL = Trial(EngineSpec(name="toy"), "burst", BurstArrivals(), 1, requests=(PLANNED,), warmup=(), concurrency=None)
EVENTS = (TokenEvent(0, 0, ""), TokenEvent(1, 2, "ab"), TokenEvent(2, 1, "c"), TokenEvent(3, 0, ""))


class Told:
    """An adapter that has understood the answer already."""

    name = "toy"
    capabilities = Capabilities()

    def __init__(self, answer: DecodedAnswer) -> None:
        self.answer = answer

    def encode(self, request: GenerationRequest, endpoint: Endpoint) -> WireRequest:
        raise AssertionError

    def decode(
        self, request: GenerationRequest, timeline: Timeline, count_tokens: CountTokens | None = None
    ) -> DecodedAnswer:
        return self.answer

    def launch_plan(self, options: EngineOptions, port: int) -> LaunchPlan | None:
        return None


def records(answer: DecodedAnswer, timeline: Timeline) -> tuple[RequestRecord, list[ChunkRecord]]:
    decoded = to_records(TRIAL, PLANNED, timeline, Told(answer), None)
    return decoded.record, decoded.chunks


def timeline(**changes: object) -> Timeline:
    seen = Timeline(due_ns=0, sent_ns=5, chunk_ns=[10, 20, 30, 40], chunk_bytes=[b""] * 4, end_ns=45)
    for name, value in changes.items():
        setattr(seen, name, value)
    return seen


def test_first_and_last_token_are_the_first_and_last_chunk_with_content() -> None:
    record, chunks = records(DecodedAnswer(EVENTS, 9, 3, TokenSource.TOKEN_IDS, "length"), timeline())
    assert (record.first_token_ns, record.last_token_ns, record.end_ns) == (20, 30, 45)
    assert (record.prompt_tokens, record.output_tokens, record.requested_tokens) == (9, 3, 4)
    assert (record.engine, record.level, record.round, record.index) == ("toy", "burst", 1, 7)
    assert [chunk.tokens for chunk in chunks] == [0, 2, 1, 0]
    assert [chunk.t_ns for chunk in chunks] == [chunk.read_ns for chunk in chunks] == [10, 20, 30, 40]


def test_the_truest_stamp_counts_and_the_read_stands_beside_it() -> None:
    seen = timeline(arrival_ns=[8, 17, None, 40], coalesced=[False, True, False, False])
    record, chunks = records(DecodedAnswer(EVENTS, output_tokens=3), seen)
    assert (record.first_token_ns, record.last_token_ns) == (17, 30)
    assert [(chunk.t_ns, chunk.read_ns) for chunk in chunks] == [(8, 10), (17, 20), (30, 30), (40, 40)]
    assert [chunk.coalesced for chunk in chunks] == [False, True, False, False]


def test_what_the_adapter_makes_of_a_failure_comes_first_and_tokens_before_it_count() -> None:
    cut, explained = (Failure(kind, str(kind)) for kind in (FailureKind.TRUNCATED, FailureKind.SERVER_ERROR))
    record, _ = records(DecodedAnswer(EVENTS, output_tokens=3, failure=explained), timeline(failure=cut))
    assert (record.status, record.error_kind, record.output_tokens) == ("failed", "server_error", 3)
    assert record.output_sha256 is None
    record, _ = records(DecodedAnswer(EVENTS), timeline(failure=cut))
    assert (record.status, record.error_kind) == ("failed", "truncated")


def test_nothing_seen_is_none_and_the_planned_prompt_length_stands_in() -> None:
    record, chunks = records(DecodedAnswer(()), Timeline(due_ns=3, failure=Failure(FailureKind.CONNECT, "refused")))
    assert chunks == []
    assert (record.sent_ns, record.first_token_ns, record.last_token_ns, record.output_tokens) == (None,) * 4
    assert record.prompt_tokens == 3
