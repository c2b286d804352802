"""The load generator: requests sent when the schedule says, and what came back, stamped."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import heapq
import sys
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from operator import sub
from time import perf_counter_ns
from typing import Any, Literal, NamedTuple, cast

from llmbench.engines.wire import Timeline
from llmbench.harness.agenda import Agenda, Due, Outgoing
from llmbench.harness.alarm import create_alarm, wait_until
from llmbench.harness.conversation import Conversations, FollowUp
from llmbench.harness.departure import departing
from llmbench.harness.lag_probe import LagProbe
from llmbench.harness.lag_samples import LagSamples
from llmbench.harness.packet_clock import create_packet_clock
from llmbench.harness.priority import foremost
from llmbench.harness.read_poller import NEVER_NS
from llmbench.harness.retries import Retries
from llmbench.harness.stop_flag import StopFlag
from llmbench.harness.transports import Ready, Transports
from llmbench.harness.wall_offset import WallOffset
from llmbench.results.manifest import InstrumentManifest
from llmbench.workloads.spec import TimeoutSpec

__all__ = ["ClockChoice", "LoadReport", "Outgoing", "StopFlag", "run_load"]

ClockChoice = Literal["auto", "packet", "kernel", "user"]
OnDone = Callable[[str, Timeline], None]

# Between the call and the start of the schedule, so that the first request is not late by what starting costs.
LEAD_NS = 5_000_000
# How early requests are made ready: half of it passes from the kernel's timer to Python code, the rest is the work.
AHEAD_NS = 120_000
# What making one ready takes: one that is due sooner is sent before another is made ready.
PREPARE_NS = 60_000
# On a schedule that nothing bounds, so many are kept ready, of those due within so long: after a stall, what has become
# due leaves one right after the other, and how closely requests can follow each other is up to the kernel alone.
MAX_READY = 32
READY_AHEAD_NS = 50_000_000
# Requests that are due one right after the other leave in one go, and nothing is read meanwhile; for this long at most.
MAX_GO_NS = 500_000
# The ring holds seconds of segments; emptying it costs the less the more it holds.
SAMPLES_PER_POLL = 5


class InstrumentLags(NamedTuple):
    """The samples of the instrument's own delays: of its event loop, of sending, and of reading."""

    loop: LagSamples
    send: LagSamples
    client: LagSamples


@dataclass(frozen=True, slots=True)
class LoadReport:
    """How the load went as a whole. `num_unsent` requests were never taken up, because the load was stopped.

    Later turns of conversations that were not reached are among them. `lags` is what `instrument` sums up.
    `lost_workers` says of each load worker that ended early what became of it.
    """

    start_ns: int
    end_ns: int
    num_unsent: int
    instrument: InstrumentManifest
    lags: InstrumentLags
    lost_workers: tuple[str, ...] = ()


def run_load(
    requests: Sequence[Outgoing],
    *,
    concurrency: int | None,
    timeouts: TimeoutSpec,
    on_done: OnDone,
    stop: StopFlag,
    start_ns: int | None = None,
    clock: ClockChoice = "auto",
    conversations: Conversations | None = None,
    retries: Retries | None = None,
) -> LoadReport:
    """Send all `requests` and wait for their answers; runs its own event loop in the calling thread.

    `concurrency` bounds the requests in flight. A scheduled request that has to wait for a slot, or for this process,
    keeps the `due_ns` it had. Without a schedule a request is due when its slot became free. `on_done` is called in
    this thread with each request's id and finished `Timeline`; what it raises ends the load and is raised here.
    Once `stop` is set nothing more is sent, and requests in flight end as CANCELLED.

    `conversations` has the later turns of `requests`; each is told to `on_done` too, those that a failure before them
    keeps from being asked as failed. In a closed loop a conversation keeps its slot until its last turn has ended.

    `retries` says which failed requests are sent again. Every attempt is told to `on_done`; in a closed loop a request
    keeps its slot from its first attempt to the end of its last.

    `clock` says what stamps the chunks: `auto` is `kernel` on Linux and `user` elsewhere, as always for TLS and Unix
    sockets. `packet` also tells apart the segments of a read that came late; it needs CAP_NET_RAW, and raises
    ConfigError without.
    """
    assert concurrency is None or concurrency >= 1
    loop, loop_name = _new_event_loop()
    try:
        with stop.watched() as stop_fd, _no_collections(), foremost() as scheduling:
            load = _Load(loop, requests, concurrency, timeouts, on_done, clock, conversations, retries)
            loop.add_reader(stop_fd, load.stop)
            if stop.is_set():
                load.stop()
            try:
                return load.run(loop_name, start_ns, scheduling)
            finally:
                load.close()
                loop.remove_reader(stop_fd)
    finally:
        loop.close()


class _Load:
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        requests: Sequence[Outgoing],
        concurrency: int | None,
        timeouts: TimeoutSpec,
        on_done: OnDone,
        clock: ClockChoice,
        conversations: Conversations | None,
        retries: Retries | None,
    ) -> None:
        self._loop = loop
        self._on_done = on_done
        self._requests, self._concurrency = requests, concurrency
        self._conversations, self._retries = conversations, retries
        # In the order in which they are due, by due time and order of coming.
        self._ready: list[tuple[int, int, Ready]] = []
        self._num_prepared = 0
        self._ahead_ns = READY_AHEAD_NS if concurrency is None else AHEAD_NS
        self._in_flight: set[Ready] = set()
        self._send_lags = LagSamples()
        self._client_lags = LagSamples()
        self._num_chunks = 0
        self._num_coalesced = 0
        self._is_filling = False
        self._finished = loop.create_future()
        wires = [request.wire for request in requests]
        # The kernel's stamps are for sockets that we read ourselves.
        endpoints = {wire.endpoint for wire in wires if wire.transport == "http" and wire.endpoint.is_plain_tcp}
        self._wall_offset = WallOffset() if clock != "user" and endpoints and sys.platform == "linux" else None
        self._packet_clock = create_packet_clock(endpoints, self._wall_offset) if clock == "packet" else None
        self._num_samples = 0
        self._transport = Transports(loop, wires, timeouts, self._wall_offset, self._packet_clock, self._send_first)
        self._alarm = create_alarm(loop, self._fill)
        self._probe = LagProbe(loop, self._on_sample)
        loop.set_exception_handler(self._on_exception)

    def run(self, loop_name: str, start_ns: int | None, scheduling: str) -> LoadReport:
        start_ns = perf_counter_ns() + LEAD_NS if start_ns is None else start_ns
        self._agenda = Agenda(self._requests, self._concurrency, start_ns)
        cpu_start_s = time.process_time()
        if self._agenda:
            self._alarm.set(start_ns - self._ahead_ns)
            self._loop.run_until_complete(self._finished)
        end_ns = perf_counter_ns()
        return LoadReport(
            start_ns=start_ns,
            end_ns=max(end_ns, start_ns),
            num_unsent=len(self._agenda)
            + len(self._ready)
            + (0 if self._conversations is None else self._conversations.num_to_come),
            instrument=InstrumentManifest(
                event_loop=loop_name,
                scheduling=scheduling,
                clock=self._clock_name(),
                reader=self._transport.reader,
                loop_lag=self._probe.lags.manifest(),
                send_lag=self._send_lags.manifest(),
                client_lag=self._client_lags.manifest(),
                num_chunks=self._num_chunks,
                num_coalesced=self._num_coalesced,
                cpu_s=time.process_time() - cpu_start_s,
            ),
            lags=InstrumentLags(self._probe.lags, self._send_lags, self._client_lags),
        )

    def _clock_name(self) -> str:
        if self._packet_clock is not None:
            return "packet"
        return "user space" if self._wall_offset is None else "kernel"

    def stop(self) -> None:
        self._end(None)

    def close(self) -> None:
        self._alarm.close()
        self._probe.close()
        self._abandon()
        self._transport.close()
        if self._packet_clock is not None:
            self._packet_clock.close()

    def _fill(self) -> None:
        """Send everything that is due and has a slot, make ready what soon is, and wake up for the next."""
        if self._is_filling:  # a request that fails at once frees its slot from within
            return
        self._is_filling = True
        ready = self._ready
        try:
            until_ns = perf_counter_ns() + MAX_GO_NS
            while not self._finished.done() and (now_ns := perf_counter_ns()) < until_ns:
                first_ns = ready[0][0] if ready else None
                if self._may_prepare(now_ns, first_ns):
                    self._prepare(now_ns)
                elif first_ns is not None and first_ns <= now_ns + AHEAD_NS:
                    self._send(now_ns)
                else:
                    break
        finally:
            self._is_filling = False
        self._set_alarm()
        self._end_if_done()

    def _send(self, now_ns: int) -> None:
        """Send the first that is ready, and with it those that are due so soon behind it that nothing else fits in."""
        going = departing(self._ready, now_ns, now_ns + MAX_GO_NS)
        if not going:
            due_ns, _, request = heapq.heappop(self._ready)
            self._in_flight.add(request)
            wait_until(due_ns)
            request.go()
            return
        self._in_flight.update(request for request, _ in going)
        departures = self._transport.send_due([outbound for _, outbound in going])
        for (request, _), departure in zip(going, departures, strict=True):
            request.gone(*departure)

    def _send_first(self) -> int:
        """Send what is due, or soon is, before time is spent on answers: these have their stamps from the kernel.

        The instant at which this is to be called again.
        """
        if self._ready and self._ready[0][0] <= perf_counter_ns() + AHEAD_NS:
            self._fill()
        return self._ready[0][0] - AHEAD_NS if self._ready else NEVER_NS

    def _may_prepare(self, now_ns: int, first_ns: int | None) -> bool:
        """Whether the agenda's next is to be made ready now; `first_ns` is when the first that is ready is due."""
        next_ns = self._agenda.wake_ns()
        if next_ns is None or next_ns > now_ns + self._ahead_ns:
            return False
        if first_ns is None or next_ns < first_ns:
            return True
        return now_ns < first_ns - PREPARE_NS and len(self._ready) < MAX_READY

    def _set_alarm(self) -> None:
        if self._finished.done():
            return
        wake_ns = self._ready[0][0] - AHEAD_NS if self._ready else None
        next_ns = self._agenda.wake_ns()
        if next_ns is not None and len(self._ready) < MAX_READY:
            prepare_ns = next_ns - self._ahead_ns
            wake_ns = prepare_ns if wake_ns is None else min(wake_ns, prepare_ns)
        if wake_ns is not None:
            self._alarm.set(wake_ns)

    def _prepare(self, now_ns: int) -> None:
        due = self._agenda.take(now_ns + self._ahead_ns)
        assert due is not None
        timeline = Timeline(due.due_ns)
        if self._retries is not None:
            self._retries.begin(due.request_id, timeline)

        def done() -> None:
            if request not in self._in_flight:  # given up before it was sent
                return
            self._in_flight.discard(request)
            self._send_first()
            self._account(timeline)
            again = self._next_attempt(due, timeline)
            self._on_done(due.request_id, timeline)
            assert timeline.end_ns is not None
            self._agenda.end(timeline.end_ns, again or self._turn_behind(due.request_id, timeline))
            self._fill()
            self._end_if_done()

        request = self._transport.prepare(due.wire, timeline, done)
        heapq.heappush(self._ready, (due.due_ns, self._num_prepared, request))
        self._num_prepared += 1

    def _next_attempt(self, due: Due, timeline: Timeline) -> FollowUp | None:
        if self._retries is None or self._finished.done():
            return None
        return self._retries.again(due.request_id, due.wire, timeline)

    def _turn_behind(self, request_id: str, timeline: Timeline) -> FollowUp | None:
        if self._conversations is None or self._finished.done():
            return None
        turn = self._conversations.follow(request_id, timeline)
        if turn is None:
            for row in self._conversations.abandoned(request_id, timeline):
                self._on_done(*row)
        return turn

    def _account(self, timeline: Timeline) -> None:
        if timeline.sent_ns is not None:
            self._send_lags.add_one(timeline.sent_ns - timeline.due_ns)
        self._num_chunks += len(timeline.chunk_ns)
        self._num_coalesced += sum(timeline.coalesced)
        # Empty of a transport without a second clock; one that was doubted left a None, and the others make the sample.
        with contextlib.suppress(TypeError):
            self._client_lags.add(array("q", map(sub, timeline.chunk_ns, cast("list[int]", timeline.arrival_ns))))

    def _end_if_done(self) -> None:
        if not self._agenda and not self._ready and not self._in_flight and not self._is_filling:
            self._end(None)

    def _end(self, error: BaseException | None) -> None:
        if self._finished.done():
            return
        if error is None:
            self._finished.set_result(None)
            self._cancel("The run was stopped before the answer was complete.")
        else:
            self._finished.set_exception(error)
            self._abandon()

    def _abandon(self) -> None:
        """Close what is in flight and tell nobody: whoever would be told has failed, or an exception is on its way."""
        self._on_done = lambda request_id, timeline: None
        self._cancel("The run was abandoned.")

    def _cancel(self, reason: str) -> None:
        """Give up what is in flight, which is told, and what is ready, which is not: nobody has sent it."""
        for request in [*self._in_flight, *(request for _, _, request in self._ready)]:
            request.cancel(reason)

    def _on_sample(self) -> None:
        if self._wall_offset is not None:
            self._wall_offset.sample()
        self._num_samples += 1
        if self._packet_clock is not None and self._num_samples % SAMPLES_PER_POLL == 0:
            self._packet_clock.poll()

    def _on_exception(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._end(context.get("exception") or RuntimeError(context["message"]))


def _new_event_loop() -> tuple[asyncio.AbstractEventLoop, str]:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop(), "asyncio"
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop, f"uvloop {version('uvloop')}"


@contextlib.contextmanager
def _no_collections() -> Iterator[None]:
    """No garbage collection inside: a full one stops every stamp for as long as it takes."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
