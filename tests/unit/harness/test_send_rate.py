"""The rate sent is the rate asked, on a clock of our own: sending costs time, and waking comes late."""

from __future__ import annotations

import pytest

from llmbench.engines.wire import Endpoint, WireRequest
from llmbench.harness.agenda import Agenda, Outgoing
from llmbench.workloads.arrivals import ConstantArrivals, arrival_offsets_ns

WIRE = WireRequest("http", Endpoint("127.0.0.1", 1), b"")
SEND_NS = 200_000
WAKE_LATE_NS = 60_000


@pytest.mark.parametrize("rate", [50, 200, 500])
def test_work_between_sends_does_not_slow_the_schedule_down(rate: int) -> None:
    num = 20 * rate
    offsets = arrival_offsets_ns(ConstantArrivals(rate=rate), num, 0)
    assert offsets is not None
    agenda = Agenda([Outgoing(str(index), due, WIRE) for index, due in enumerate(offsets)], None, 0)
    now_ns, sent_ns, lags_ns = 0, [], []
    while agenda:
        due = agenda.take(now_ns)
        if due is None:
            wake_ns = agenda.wake_ns()
            assert wake_ns is not None
            now_ns = wake_ns + WAKE_LATE_NS
            continue
        now_ns += SEND_NS
        sent_ns.append(now_ns)
        lags_ns.append(now_ns - due.due_ns)
    sent_rate = (num - 1) / (sent_ns[-1] - sent_ns[0]) * 1e9
    assert sent_rate == pytest.approx(rate, rel=0.005)
    # Each is late by what it cost itself, and by nothing that came before it.
    assert max(lags_ns) <= SEND_NS + WAKE_LATE_NS
    assert min(lags_ns) >= SEND_NS
