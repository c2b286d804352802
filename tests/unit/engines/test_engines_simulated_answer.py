"""The simulated engine's schedule and bytes, on a clock that only moves when told."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbench.engines.simulated_server.answer import MAX_SEND_BYTES, Answer
from llmbench.engines.simulated_server.behaviour import Behaviour
from llmbench.engines.simulated_server.question import Question, read_question
from llmbench.engines.simulated_server.wander import Wander

MS = 1_000_000


def dues(behaviour: Behaviour, num_tokens: int, **question: object) -> list[float]:
    """When each step is due, in ms after arrival."""
    answer = Answer(Question(request_id="r", max_tokens=num_tokens, stream=True, **question), behaviour, 7)
    found = []
    while not answer.is_over:
        found.append((answer.due_ns - 7) / MS)
        answer.take(answer.due_ns)
    return found


def test_chunks_are_due_at_ttft_and_every_itl_after() -> None:
    assert dues(Behaviour(ttft_ms=50, itl_ms=10), 4) == [50, 60, 70, 80]
    assert dues(Behaviour(ttft_ms=50, itl_ms=10, tokens_per_chunk=3), 7) == [50, 60, 70]


def test_a_stall_delays_its_chunk_and_all_that_follow() -> None:
    assert dues(Behaviour(ttft_ms=5, itl_ms=1, stall_at=2, stall_s=1), 4) == [5, 6, 1007, 1008]


def test_jitter_delays_each_chunk_on_its_own_and_the_same_way_each_time() -> None:
    behaviour = Behaviour(ttft_ms=50, itl_ms=10, jitter_ms=4)
    found = dues(behaviour, 100)
    late = [due - (50 + 10 * step) for step, due in enumerate(found)]
    assert all(0 <= delay <= 4 for delay in late)
    assert len(set(late)) > 90
    assert dues(behaviour, 100) == found


def test_a_late_server_sends_together_what_has_fallen_due() -> None:
    answer = Answer(Question(request_id="r", max_tokens=10, stream=True), Behaviour(ttft_ms=0, itl_ms=10), 0)
    first = answer.take(0)
    answer.stamp(0, 1)
    assert answer.take(35 * MS) == first * 3
    answer.stamp(35 * MS, 36 * MS)
    logged = json.loads(answer.log_line(0))
    assert logged["began_ns"] == [0, 35 * MS, 35 * MS, 35 * MS]
    assert logged["sent_ns"] == [1, 36 * MS, 36 * MS, 36 * MS]
    assert answer.due_ns == 40 * MS


def test_the_end_is_known_as_well_as_its_send_and_a_cut_answer_ends_now() -> None:
    answer = Answer(Question(request_id="r", max_tokens=3, stream=True), Behaviour(ttft_ms=0, itl_ms=1), 0)
    answer.take(0)
    answer.stamp(5, 6)
    cut = json.loads(answer.log_line(7))
    assert (cut["end_began_ns"], cut["end_ns"]) == (7, 7)
    while not answer.is_over:
        answer.take(10**12)
    answer.stamp(20, 30)
    whole = json.loads(answer.log_line(99))
    assert (whole["end_began_ns"], whole["end_ns"]) == (20, 30)


@given(
    st.integers(1, 3000),
    st.integers(1, 5),
    st.none() | st.integers(0, 50),
    st.none() | st.integers(0, 50),
    st.none() | st.integers(0, 50),
    st.lists(st.integers(0, 10), max_size=10),
)
def test_every_chunk_is_sent_once_and_stamped_once(num_tokens, per_chunk, broken, error, cut, waits) -> None:
    behaviour = Behaviour(
        ttft_ms=0, itl_ms=1, tokens_per_chunk=per_chunk, malformed_after=broken, error_after=error, cut_after=cut
    )
    answer = Answer(Question(request_id="r", max_tokens=num_tokens, stream=True), behaviour, 0)
    body, now = b"", 0
    for wait in [*waits, *[10_000] * (num_tokens + 2)]:
        if answer.is_over:
            break
        now = max(now, answer.due_ns) + wait * MS
        data = answer.take(now)
        assert len(data) <= MAX_SEND_BYTES + 1000
        body += data
        answer.stamp(now, now + 1)
    num_chunks = -(-num_tokens // per_chunk)
    stops = [stop for stop in (error, cut) if stop is not None and stop < num_chunks]
    expected = min([num_chunks, *stops])
    assert answer.num_sent == len(json.loads(answer.log_line(now))["sent_ns"]) == expected
    assert body.count(b'"finish_reason":') == expected
    assert body.count(b" tick") == min(num_tokens, expected * per_chunk)
    assert answer.outcome == ("done" if not stops else "cut" if cut == min(stops) else "error event")


def test_a_request_may_ask_for_its_own_behaviour() -> None:
    default = Behaviour(ttft_ms=3)
    headers = {"x-simulate": '{"itl_ms": 0}', "x-request-id": "r7"}
    body = b'{"prompt": "one two", "max_tokens": 3, "simulate": {"status": 503}}'
    question, behaviour = read_question("/v1/completions", headers, body, True, default)
    assert (question.request_id, question.max_tokens, question.prompt_tokens) == ("r7", 3, 2)
    assert behaviour == Behaviour(ttft_ms=3, itl_ms=0, status=503)


@pytest.mark.parametrize(
    ("headers", "body", "part"),
    [
        ({}, b"{", "must be JSON"),
        ({}, b"[" * 100_000, "must be JSON"),
        ({}, b"[]", "must be a JSON object"),
        ({"x-simulate": "3"}, b"{}", "must be JSON objects"),
        ({"x-simulate": '{"ttf_ms": 3}'}, b"{}", "did you mean ttft_ms?"),
        ({"x-simulate": '{"ttft_ms": "3"}'}, b"{}", "ttft_ms must be a value like 2.5; got '3'"),
        ({"x-simulate": '{"ttft_ms": NaN}'}, b"{}", "ttft_ms must be between 0 and"),
        ({"x-simulate": '{"empty": 1}'}, b"{}", "empty must be a value like true; got 1"),
        ({}, b'{"max_tokens": true}', "max_tokens must be between 1 and"),
        ({}, b'{"max_tokens": 0}', "max_tokens must be between 1 and"),
    ],
)
def test_requests_that_cannot_be_answered(headers, body, part) -> None:
    with pytest.raises(ValueError, match=part.replace("?", r"\?")):
        read_question("/v1/completions", headers, body, True, Behaviour())


def test_a_pace_stretches_the_first_chunk_and_all_that_follow() -> None:
    question = Question(request_id="r", max_tokens=3, stream=True)
    answer = Answer(question, Behaviour(ttft_ms=50, itl_ms=10), 0, pace=1.5)
    found = []
    while not answer.is_over:
        found.append(answer.due_ns / MS)
        answer.take(answer.due_ns)
    assert found == [75, 90, 105]


def test_what_wanders_is_alike_for_as_long_as_it_remembers() -> None:
    wander = Wander(seed=1)
    values = np.array([wander.at(100 * MS * step, memory_s=0.5) for step in range(20_000)])
    # 20,000 values of correlation e^-0.2 are worth about 2,000: five standard errors, a false alarm in 10^6 seeds.
    assert abs(values.mean()) < 5 * np.sqrt(1 / 2_000)
    assert abs(values.std() - 1) < 5 * np.sqrt(1 / 4_000)
    assert np.corrcoef(values[1:], values[:-1])[0, 1] == pytest.approx(np.exp(-0.2), abs=0.025)
    assert np.corrcoef(values[5:], values[:-5])[0, 1] == pytest.approx(np.exp(-1), abs=0.1)


def test_a_seed_repeats_what_wanders_and_another_does_not() -> None:
    def path(seed: int) -> list[float]:
        wander = Wander(seed)
        return [wander.at(step * MS, memory_s=0.01) for step in range(5)]

    assert path(0) == path(0) != path(1)
    assert len(set(path(0))) == 5


def test_without_a_memory_neighbours_have_nothing_in_common() -> None:
    wander = Wander(seed=2)
    values = np.array([wander.at(0, memory_s=0) for _ in range(10_000)])
    assert abs(np.corrcoef(values[1:], values[:-1])[0, 1]) < 0.05  # five standard errors
