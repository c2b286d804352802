"""What a load sends next: schedules, slots, and later turns of conversations."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbench.engines.wire import Endpoint, WireRequest
from llmbench.harness.agenda import Agenda, Due, Outgoing
from llmbench.harness.conversation import FollowUp

WIRE = WireRequest("http", Endpoint("127.0.0.1", 1), b"")


def agenda(offsets_ns: list[int | None], concurrency: int | None = None, start_ns: int = 1000) -> Agenda:
    outgoing = [Outgoing(str(index), offset_ns, WIRE) for index, offset_ns in enumerate(offsets_ns)]
    return Agenda(outgoing, concurrency, start_ns)


def turn(request_id: str, due_ns: int) -> FollowUp:
    return FollowUp(request_id, due_ns, WIRE)


def taken(each: Agenda, now_ns: int) -> list[tuple[str, int]]:
    found = []
    while (due := each.take(now_ns)) is not None:
        found.append((due.request_id, due.due_ns))
    return found


def test_a_schedule_is_sent_when_it_says() -> None:
    plan = agenda([30, 0, 30])
    assert taken(plan, 999) == []
    assert plan.wake_ns() == 1000
    assert taken(plan, 1000) == [("1", 1000)]
    assert plan.wake_ns() == 1030
    assert taken(plan, 5000) == [("0", 1030), ("2", 1030)]
    assert (len(plan), plan.wake_ns()) == (0, None)


def test_a_closed_loop_keeps_a_conversations_slot_while_its_user_thinks() -> None:
    plan = agenda([None, None], concurrency=1)
    assert taken(plan, 1000) == [("0", 1000)]
    plan.end(1100, turn("0b", 1600))
    assert taken(plan, 1599) == []
    assert plan.wake_ns() == 1600
    assert taken(plan, 1700) == [("0b", 1600)]
    assert plan.wake_ns() is None
    plan.end(1800)
    assert taken(plan, 1900) == [("1", 1800)]


def test_on_a_schedule_nobody_who_thinks_has_a_slot() -> None:
    plan = agenda([0, 10], concurrency=1)
    assert taken(plan, 1000) == [("0", 1000)]
    plan.end(1100, turn("0b", 1600))
    assert taken(plan, 1100) == [("1", 1010)]
    assert plan.wake_ns() is None
    plan.end(1700)
    assert taken(plan, 1700) == [("0b", 1600)]


def test_who_has_waited_longest_goes_first() -> None:
    plan = agenda([0, 700], concurrency=1)
    assert taken(plan, 1000) == [("0", 1000)]
    plan.end(1100, turn("0b", 1800))
    assert plan.take(2000) == Due(1700, "1", WIRE)
    plan.end(2100)
    assert plan.take(2100) == Due(1800, "0b", WIRE)


@pytest.mark.parametrize("is_closed_loop", [True, False])
@settings(max_examples=60, deadline=None)
@given(
    num=st.integers(1, 20),
    concurrency=st.integers(1, 4),
    turns=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 50)), min_size=1, max_size=20),
    answers_ns=st.lists(st.integers(1, 40), min_size=1, max_size=20),
)
def test_everything_is_sent_once_and_the_bound_is_kept(
    is_closed_loop: bool, num: int, concurrency: int, turns: list[tuple[int, int]], answers_ns: list[int]
) -> None:
    plan = agenda([None if is_closed_loop else 7 * index for index in range(num)], concurrency)
    under_way: list[tuple[int, str]] = []
    sent: list[str] = []
    now_ns = 1000
    while plan or under_way:
        while (due := plan.take(now_ns)) is not None:
            assert due.due_ns <= now_ns
            sent.append(due.request_id)
            under_way.append((now_ns + answers_ns[len(sent) % len(answers_ns)], due.request_id))
            assert len(under_way) <= concurrency
        wake_ns = plan.wake_ns()
        next_ns = min(end_ns for end_ns, _ in under_way) if under_way else None
        assert wake_ns is not None or next_ns is not None, "nothing would ever happen again"
        now_ns = min(time_ns for time_ns in (wake_ns, next_ns) if time_ns is not None)
        for ended in [each for each in under_way if each[0] <= now_ns]:
            under_way.remove(ended)
            first, _, reached = ended[1].partition("-")
            num_turns, think_ns = turns[int(first) % len(turns)]
            done = int(reached or 0)
            plan.end(now_ns, turn(f"{first}-{done + 1}", now_ns + think_ns) if done < num_turns else None)
    assert len(sent) == len(set(sent)) == num + sum(turns[index % len(turns)][0] for index in range(num))
