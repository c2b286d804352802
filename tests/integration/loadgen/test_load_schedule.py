"""When requests leave, what waits for what, and how a load ends: against a real loopback server."""

import itertools
import os
import signal
import threading
import time
from typing import Any

import pytest

from llmbench.engines.wire import DecodedAnswer, Endpoint, FailureKind, GenerationRequest, Timeline, WireRequest
from llmbench.harness import loadgen
from llmbench.harness.conversation import Conversations
from llmbench.harness.loadgen import Outgoing, StopFlag, run_load
from llmbench.harness.plan import PlannedRequest
from llmbench.workloads.spec import TimeoutSpec


def answer_all(peer: Any) -> None:
    while peer.request():
        peer.answer(b"data: x\n\n")


def answer_after(seconds: float) -> Any:
    def script(peer: Any) -> None:
        while peer.request():
            peer.wait(seconds)
            peer.answer(b"data: x\n\n")

    return script


def test_due_times_are_the_plan_and_do_not_drift(serve: Any, load: Any) -> None:
    offsets = [index * 0.005 for index in range(200)]
    report, done = load(serve(answer_all).endpoint, offsets)
    for index, offset in enumerate(offsets):
        timeline = done[str(index)]
        assert timeline.failure is None
        assert timeline.due_ns == report.start_ns + round(offset * 1e9)
        assert timeline.due_ns <= timeline.connect_ns <= timeline.sent_ns
    # Sleeping between sends would drift by the cost of each; a busy machine only makes some of them late.
    lags = sorted(done[str(index)].sent_ns - done[str(index)].due_ns for index in range(150, 200))
    assert lags[25] < 250_000_000
    assert report.num_unsent == 0
    assert report.instrument.send_lag.n == 200
    assert report.instrument.loop_lag.n > 10
    assert report.instrument.cpu_s > 0


def test_requests_out_of_order_and_due_together(serve: Any, load: Any) -> None:
    report, done = load(serve(answer_all).endpoint, [0.05, 0.0, 0.05])
    assert [done[request_id].due_ns - report.start_ns for request_id in "012"] == [50_000_000, 0, 50_000_000]
    assert done["1"].sent_ns < done["0"].sent_ns < done["2"].sent_ns


def test_a_late_start_shows_in_the_record(serve: Any, load: Any) -> None:
    start_ns = time.perf_counter_ns() - 300_000_000
    report, done = load(serve(answer_all).endpoint, [0.0, 0.1], start_ns=start_ns)
    assert report.start_ns == start_ns
    assert done["0"].due_ns == start_ns
    assert done["0"].sent_ns - done["0"].due_ns >= 300_000_000
    assert done["1"].sent_ns - done["1"].due_ns >= 200_000_000


def test_closed_loop_keeps_k_in_flight_and_reuses_connections(serve: Any, load: Any) -> None:
    server = serve(answer_after(0.02))
    report, done = load(server.endpoint, 12, concurrency=3)
    assert server.num_connections == 3
    timelines = sorted(done.values(), key=lambda timeline: timeline.due_ns)
    assert [timeline.due_ns for timeline in timelines[:3]] == [report.start_ns] * 3
    # Each later request is due exactly when one before it was complete.
    ends = sorted(timeline.end_ns for timeline in timelines)
    assert [timeline.due_ns for timeline in timelines[3:]] == ends[:9]
    marks = sorted([(t.sent_ns, 1) for t in timelines] + [(t.end_ns, -1) for t in timelines])
    in_flight = 0
    for _, change in marks:
        in_flight += change
        assert in_flight <= 3


def test_a_cap_makes_requests_wait_and_their_due_times_stay(serve: Any, load: Any) -> None:
    report, done = load(serve(answer_after(0.1)).endpoint, [0.0, 0.0, 0.0, 0.0], concurrency=1)
    assert {timeline.due_ns for timeline in done.values()} == {report.start_ns}
    assert done["3"].sent_ns - done["3"].due_ns >= 300_000_000
    assert report.instrument.send_lag.max_ns >= 300_000_000


def test_a_server_that_stops_accepting_shows_in_due_time_latency(serve: Any, load: Any) -> None:
    # Coordinated omission: the requests of the pause are sent as planned, and each waits for as long as it has to.
    resumed_ns: list[int] = []
    resumes: list[threading.Timer] = []

    def resume() -> None:
        resumed_ns.append(time.perf_counter_ns())
        server.accepting.set()

    def answer_once_open(peer: Any) -> None:
        while peer.request():
            if not resumes:
                resumes.append(threading.Timer(0.5, resume))
                resumes[0].start()
            peer.server.accepting.wait()
            peer.answer(b"data: x\n\n")

    server = serve(answer_once_open)
    server.accepting.clear()
    # Only the first connection is accepted before the pause ends, by an acceptor that is already waiting.
    report, done = load(server.endpoint, [index * 0.02 for index in range(20)])
    assert len(done) == 20
    for index in range(20):
        timeline = done[str(index)]
        assert timeline.failure is None
        assert timeline.due_ns == report.start_ns + index * 20_000_000
        assert timeline.end_ns >= resumed_ns[0]
    assert done["0"].end_ns - done["0"].due_ns >= 500_000_000


def test_time_to_headers_is_part_of_time_to_first_token(serve: Any, load: Any) -> None:
    def slow_head(peer: Any) -> None:
        peer.request()
        peer.wait(0.2)
        peer.head()
        peer.wait(0.1)
        peer.chunk(b"data: x\n\n")
        peer.end()

    _, done = load(serve(slow_head).endpoint)
    timeline = done["0"]
    assert timeline.first_byte_ns - timeline.sent_ns >= 190_000_000
    assert timeline.stamp_ns(0) - timeline.first_byte_ns >= 90_000_000


def test_a_stall_in_mid_stream_stays_where_it_was(serve: Any, load: Any) -> None:
    def stall(peer: Any) -> None:
        peer.request()
        peer.head()
        for index in range(10):
            peer.wait(0.4 if index == 6 else 0.01)
            peer.chunk(b"data: x\n\n")
        peer.end()

    _, done = load(serve(stall).endpoint)
    stamps = [done["0"].stamp_ns(index) for index in range(10)]
    gaps = [later - earlier for earlier, later in itertools.pairwise(stamps)]
    assert gaps.index(max(gaps)) == 5
    assert max(gaps) >= 390_000_000


def test_a_connection_closed_while_idle_is_not_used_again(serve: Any, load: Any) -> None:
    def once(peer: Any) -> None:
        peer.request()
        peer.answer(b"data: x\n\n")

    server = serve(once)
    _, done = load(server.endpoint, [0.0, 0.1, 0.2])
    assert [timeline.failure for timeline in done.values()] == [None] * 3
    assert server.num_connections == 3


def test_stop_cancels_what_is_in_flight_and_counts_the_rest(serve: Any, load: Any) -> None:
    stop = StopFlag()
    taken: list[bytes] = []

    def hang(peer: Any) -> None:
        taken.append(peer.request())
        if len(taken) == 2:
            stop.set()
        peer.wait(30)

    report, done = load(serve(hang).endpoint, [0.0, 0.05, 60.0, 61.0], stop=stop)
    assert sorted(done) == ["0", "1"]
    assert {timeline.failure.kind for timeline in done.values()} == {FailureKind.CANCELLED}
    assert all(timeline.sent_ns is not None for timeline in done.values())
    assert report.num_unsent == 2
    assert report.end_ns - report.start_ns < 30_000_000_000


def test_stop_in_a_closed_loop_sends_nothing_more(serve: Any, load: Any) -> None:
    stop = StopFlag()
    report, done = load(serve(answer_all).endpoint, 50, concurrency=2, stop=stop, on_done=lambda *_: stop.set())
    assert report.num_unsent + len(done) == 50
    assert report.num_unsent > 0


def test_stop_before_the_start_sends_nothing(serve: Any, load: Any) -> None:
    stop = StopFlag()
    stop.set()
    report, done = load(serve(answer_all).endpoint, 5, stop=stop)
    assert (report.num_unsent, done) == (5, {})


def test_stop_from_a_signal_handler(serve: Any, load: Any) -> None:
    stop = StopFlag()

    def interrupt(peer: Any) -> None:
        peer.request()
        os.kill(os.getpid(), signal.SIGUSR1)
        peer.wait(30)

    before = signal.signal(signal.SIGUSR1, lambda *_: stop.set())
    try:
        report, done = load(serve(interrupt).endpoint, 2, stop=stop)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert done["0"].failure.kind is FailureKind.CANCELLED
    assert report.num_unsent == 1


def test_what_on_done_raises_ends_the_load(serve: Any, load: Any) -> None:
    def give_up(request_id: str, timeline: object) -> None:
        if request_id != "0":
            raise RuntimeError("the recorder is gone")

    with pytest.raises(RuntimeError, match="the recorder is gone"):
        load(serve(answer_after(0.02)).endpoint, 100, concurrency=2, on_done=give_up)


def test_no_requests(load: Any) -> None:
    report, done = load(Endpoint("127.0.0.1", 1), [])
    assert (report.num_unsent, done) == (0, {})


def test_many_failures_at_once_do_not_recurse(load: Any) -> None:
    _, done = load(Endpoint("no-such-host.invalid", 80), 5_000, concurrency=1)
    assert len(done) == 5_000


def test_turns_not_reached_when_stopped_are_unsent(serve: Any) -> None:
    wire = WireRequest("http", serve(answer_all).endpoint, b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\n\r\n")
    talks = [
        PlannedRequest(name, 0, None, GenerationRequest(name, "m", 1, prompt="x"), False, None, None, after, think_ns)
        for name, after, think_ns in [
            ("0", None, 0),
            ("0b", "0", 0),
            ("0c", "0b", 60_000_000_000),
            ("1", None, 0),
            ("1b", "1", 0),
        ]
    ]
    stop, done = StopFlag(), {}

    def keep(request_id: str, timeline: Timeline) -> None:
        done[request_id] = timeline
        if request_id == "0b":
            stop.set()

    report = run_load(
        [Outgoing(name, None, wire) for name in "01"],
        concurrency=1,
        timeouts=TimeoutSpec(),
        on_done=keep,
        stop=stop,
        conversations=Conversations(talks, lambda _: wire, lambda *_: DecodedAnswer(events=())),
    )
    assert list(done) == ["0", "0b"], "the user of the first slot is still thinking"
    assert done["0b"].due_ns == done["0"].end_ns
    assert report.num_unsent == 3


@pytest.fixture
def early(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests are made ready, with a connection, 200 ms before they are due."""
    monkeypatch.setattr(loadgen, "READY_AHEAD_NS", 200_000_000)


@pytest.mark.usefixtures("early")
def test_a_connection_closed_while_a_request_waits_on_it_is_replaced(serve: Any, load: Any) -> None:
    def hang_up(peer: Any) -> None:
        peer.request()
        peer.answer(b"data: x\n\n")
        peer.wait(0.1)

    server = serve(hang_up)
    _, done = load(server.endpoint, [0.0, 0.25, 0.5, 0.75])
    assert [timeline.failure for timeline in done.values()] == [None] * 4
    assert server.num_connections == 4


@pytest.mark.usefixtures("early")
def test_what_was_ready_when_the_load_was_stopped_was_never_sent(serve: Any, load: Any) -> None:
    stop = StopFlag()
    report, done = load(serve(answer_all).endpoint, [0.0, 0.18, 0.19], stop=stop, on_done=lambda *_: stop.set())
    assert (list(done), report.num_unsent) == (["0"], 2)
