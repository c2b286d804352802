"""What is due together leaves together, none of it early, and what a socket did not take is not lost."""

from __future__ import annotations

import heapq
import os
import socket
from time import perf_counter_ns

import pytest

from llmbench.harness import departure
from llmbench.harness.departure import CLOSE_NS, Departure, SendDue, departing
from llmbench.harness.native_reads import CHOICE, chosen_reader


@pytest.fixture(params=["native", "python"])
def send_due(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> SendDue:
    monkeypatch.delenv(CHOICE, raising=False)
    native = chosen_reader()
    if request.param == "python":
        return departure.send_due
    if native is None:
        pytest.skip("the compiled reader was not built")
    return native.send_due  # type: ignore[no-any-return]


class Request:
    def __init__(self, fd: int | None) -> None:
        self._fd = fd

    def outbound(self) -> tuple[int, bytes] | None:
        return None if self._fd is None else (self._fd, b"request")

    def go(self) -> None:
        raise AssertionError

    def gone(self, num_sent: int, began_ns: int, sent_ns: int) -> None:
        raise AssertionError

    def cancel(self, reason: str) -> None:
        raise AssertionError


def test_each_leaves_when_it_is_due_and_in_order(send_due: SendDue) -> None:
    pairs = [socket.socketpair() for _ in range(4)]
    start_ns = perf_counter_ns() + 2_000_000
    due_ns = [start_ns, start_ns, start_ns + 300_000, start_ns - 50_000_000]
    payloads = [b"%d" % index * (index + 1) for index in range(4)]
    outbound = [(near.fileno(), *what) for (near, _), *what in zip(pairs, payloads, due_ns, strict=True)]
    gone = [Departure(*left) for left in send_due(outbound)]
    assert [left.num_sent for left in gone] == [1, 2, 3, 4]
    assert all(left.began_ns >= due for left, due in zip(gone, due_ns, strict=True))
    stamps = [stamp for left in gone for stamp in (left.began_ns, left.sent_ns)]
    assert stamps == sorted(stamps)
    assert [far.recv(100) for _, far in pairs] == payloads
    for pair in pairs:
        for sock in pair:
            sock.close()


def test_a_full_socket_takes_nothing_or_a_part_and_a_broken_one_refuses(send_due: SendDue) -> None:
    full, reader = socket.socketpair()
    broken, peer = socket.socketpair()
    peer.close()
    for sock in (full, broken):
        sock.setblocking(False)
    payload = b"x" * 4_000_000
    now_ns = perf_counter_ns()
    left = send_due([(full.fileno(), payload, now_ns), (full.fileno(), payload, now_ns), (broken.fileno(), b"x", 0)])
    assert 0 < left[0][0] < len(payload)
    assert [num_sent for num_sent, _, _ in left[1:]] == [0, -1]
    assert send_due([]) == []
    for sock in (full, reader, broken):
        sock.close()


def test_a_closed_descriptor_refuses(send_due: SendDue) -> None:
    near, far = socket.socketpair()
    fd = os.dup(near.fileno())
    os.close(fd)
    assert send_due([(fd, b"x", 0)])[0][0] == -1
    near.close()
    far.close()


def heap(*due_ns: int, without: int | None = None) -> list[tuple[int, int, Request]]:
    entries = [(due, index, Request(None if index == without else index)) for index, due in enumerate(due_ns)]
    heapq.heapify(entries)
    return entries


def test_what_is_due_closely_behind_the_first_goes_with_it() -> None:
    now_ns, until_ns = 0, 10 * CLOSE_NS
    ready = heap(0, CLOSE_NS, 2 * CLOSE_NS, 3 * CLOSE_NS + 1)
    going = departing(ready, now_ns, until_ns)
    assert [outbound for _, outbound in going] == [(index, b"request", index * CLOSE_NS) for index in range(3)]
    assert [entry[0] for entry in ready] == [3 * CLOSE_NS + 1]


def test_a_go_has_an_end_however_much_is_due() -> None:
    ready = heap(*range(0, 20 * CLOSE_NS, CLOSE_NS))
    assert len(departing(ready, 0, 5 * CLOSE_NS)) == 6
    assert len(ready) == 14


def test_after_a_stall_all_that_is_overdue_goes() -> None:
    ready = heap(*range(0, 20 * CLOSE_NS, 2 * CLOSE_NS))
    assert len(departing(ready, 15 * CLOSE_NS, 20 * CLOSE_NS)) == 9


def test_one_that_takes_more_than_a_write_is_left_for_itself() -> None:
    ready = heap(0, 1, 2, without=1)
    assert len(departing(ready, 0, CLOSE_NS)) == 1
    assert departing(ready, 0, CLOSE_NS) == []
    assert len(ready) == 2
