"""Which failures are sent again, and when."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import get_args

import pytest

from llmbench.engines.server_message import status_failure
from llmbench.engines.wire import (
    DecodedAnswer,
    Endpoint,
    Failure,
    FailureKind,
    GenerationRequest,
    Timeline,
    WireRequest,
)
from llmbench.harness.conversation import FollowUp
from llmbench.harness.retries import Retries
from llmbench.workloads.retry_spec import RetriedKind
from llmbench.workloads.spec import RetrySpec

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
WIRE = WireRequest("http", Endpoint("h", 1), b"POST")
FIXED = RetrySpec(attempts=5, backoff="fixed", wait_s=2.0, jitter=0.0)


def decode(request: GenerationRequest, timeline: Timeline) -> DecodedAnswer:
    return DecodedAnswer((), failure=timeline.failure or status_failure(timeline))


def again(policy: RetrySpec, timeline: Timeline, request_id: str = "r") -> FollowUp | None:
    asked = {request_id: GenerationRequest(request_id, "m", 4, prompt="x")}
    return Retries(policy, asked, decode, now=lambda: NOW).again(request_id, WIRE, timeline)


def failed(kind: FailureKind = FailureKind.CONNECT, attempt: int = 1) -> Timeline:
    return Timeline(5, end_ns=1_000, attempt=attempt, failure=Failure(kind, "no"))


def answered(status: int, **headers: str) -> Timeline:
    return Timeline(5, end_ns=1_000, status=status, headers=list(headers.items()))


def waited_s(policy: RetrySpec, timeline: Timeline, request_id: str = "r") -> float:
    turn = again(policy, timeline, request_id)
    assert turn is not None
    assert turn.wire is WIRE
    return (turn.due_ns - 1_000) / 1e9


def test_a_workload_can_name_every_kind_but_being_cancelled() -> None:
    assert set(get_args(RetriedKind)) == {str(kind) for kind in FailureKind} - {"cancelled"}


def test_waits_are_fixed_or_double_up_to_the_longest() -> None:
    assert [waited_s(FIXED, failed(attempt=n)) for n in (1, 2, 3, 4)] == [2, 2, 2, 2]
    doubling = RetrySpec(attempts=6, wait_s=2.0, max_wait_s=10.0, jitter=0.0)
    assert [waited_s(doubling, failed(attempt=n)) for n in (1, 2, 3, 4)] == [2, 4, 8, 10]


def test_jitter_takes_its_share_and_depends_on_seed_request_and_attempt_alone() -> None:
    policy = RetrySpec(attempts=9, backoff="fixed", wait_s=2.0, jitter=0.25)
    waits = [waited_s(policy, failed(), f"r{number}") for number in range(200)]
    assert all(1.5 <= wait <= 2 for wait in waits)
    assert min(waits) < 1.55
    assert max(waits) > 1.95
    assert waits == [waited_s(policy, failed(), f"r{number}") for number in range(200)]
    assert waited_s(policy.model_copy(update={"seed": 1}), failed()) != waited_s(policy, failed())
    assert waited_s(policy, failed(attempt=2)) != waited_s(policy, failed())


@pytest.mark.parametrize(
    ("retry_after", "expected_s"),
    [("7", 7), ("0", 2), ("Wed, 04 Mar 2026 05:06:12 GMT", 5), ("Wed, 04 Mar 2020 05:06:12 GMT", 2), ("soon", 2)],
)
def test_retry_after_is_waited_for(retry_after: str, expected_s: float) -> None:
    assert waited_s(FIXED, answered(429, **{"Retry-After": retry_after})) == expected_s


def test_retry_after_may_be_disregarded_and_never_takes_longer_than_allowed() -> None:
    assert again(FIXED, answered(429, **{"retry-after": "31"})) is None
    deaf = FIXED.model_copy(update={"honour_retry_after": False})
    assert waited_s(deaf, answered(429, **{"retry-after": "31"})) == 2


@pytest.mark.parametrize("status", [200, 400, 404, 422])
def test_what_a_second_attempt_would_not_change_is_not_sent_again(status: int) -> None:
    assert again(FIXED, answered(status)) is None


@pytest.mark.parametrize("status", [500, 503])
def test_a_server_s_own_failures_are(status: int) -> None:
    assert again(FIXED, answered(status)) is not None


def test_only_the_kinds_asked_for_and_only_so_often() -> None:
    assert again(FIXED, failed(FailureKind.TRUNCATED)) is None
    assert again(FIXED, failed(FailureKind.CANCELLED)) is None
    assert again(FIXED, failed(attempt=5)) is None
    assert again(RetrySpec(on=("truncated",)), failed(FailureKind.TRUNCATED)) is not None


def test_a_failure_that_only_the_answer_tells_is_seen_where_it_is_asked_for() -> None:
    def cut(request: GenerationRequest, timeline: Timeline) -> DecodedAnswer:
        return DecodedAnswer((), failure=Failure(FailureKind.TRUNCATED, "no end marker"))

    asked = {"r": GenerationRequest("r", "m", 4, prompt="x")}
    assert Retries(RetrySpec(on=("truncated",)), asked, cut).again("r", WIRE, answered(200)) is not None
    assert Retries(RetrySpec(), asked, cut).again("r", WIRE, answered(200)) is None


def test_each_attempt_knows_its_number_and_when_the_first_was_due() -> None:
    retries = Retries(FIXED, {"r": GenerationRequest("r", "m", 4, prompt="x")}, decode, now=lambda: NOW)
    timeline = failed()
    for number in (2, 3):
        before = timeline
        turn = retries.again("r", WIRE, before)
        assert turn is not None
        assert before.retry_due_ns == turn.due_ns
        timeline = replace(failed(), due_ns=turn.due_ns, end_ns=turn.due_ns + 10)
        retries.begin("r", timeline)
        assert (timeline.attempt, timeline.first_due_ns) == (number, 5)
