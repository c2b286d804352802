"""The offset between two hosts' clocks, and stamps moved by it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llmbench.engines.wire import Timeline
from llmbench.harness.host_clock import NUM_PROBES, measured_offset, shift


@given(
    offset_ns=st.integers(-(10**15), 10**15),
    ways_ns=st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**9)), min_size=NUM_PROBES, max_size=NUM_PROBES),
)
def test_the_true_offset_is_within_the_error_however_lopsided_the_ways(
    offset_ns: int, ways_ns: list[tuple[int, int]]
) -> None:
    now_ns = 0
    ways = iter(ways_ns)

    def ask() -> int:
        nonlocal now_ns
        there_ns, back_ns = next(ways)
        now_ns += there_ns
        told = now_ns + offset_ns
        now_ns += back_ns
        return told

    found = measured_offset(ask, lambda: now_ns)
    assert abs(found.offset_ns - offset_ns) <= found.error_ns
    assert found.error_ns == min((there_ns + back_ns + 1) // 2 for there_ns, back_ns in ways_ns)


def test_every_stamp_moves_and_missing_ones_stay_missing() -> None:
    timeline = Timeline(
        due_ns=1,
        first_due_ns=0,
        begun_ns=1,
        retry_due_ns=20,
        sent_ns=2,
        end_ns=9,
        chunk_ns=[4, 6],
        chunk_bytes=[b"a", b"b"],
        arrival_ns=[None, 5],
        coalesced=[False] * 2,
    )
    shift(timeline, 100)
    assert (timeline.first_due_ns, timeline.begun_ns, timeline.retry_due_ns) == (100, 101, 120)
    assert (timeline.due_ns, timeline.connect_ns, timeline.sent_ns, timeline.first_byte_ns) == (101, None, 102, None)
    assert (timeline.chunk_ns, timeline.arrival_ns, timeline.end_ns) == ([104, 106], [None, 105], 109)
