"""When the poller rests: only under high load, and never where two chunks of a stream could meet."""

import sys
from collections.abc import Callable

import pytest

from llmbench.harness import epoll_reads, read_poller
from llmbench.harness.epoll_reads import EpollReads
from llmbench.harness.read_poller import RestingPoller, nothing_due

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="epoll is Linux's")


class FakeLoop:
    def __init__(self) -> None:
        self.watched: set[int] = set()

    def add_reader(self, fd: int, callback: Callable[[], None]) -> None:
        self.watched.add(fd)

    def remove_reader(self, fd: int) -> None:
        self.watched.discard(fd)


class FakeAlarm:
    def __init__(self) -> None:
        self.set_ns: list[int] = []

    def set(self, t_ns: int) -> None:
        self.set_ns.append(t_ns)

    def close(self) -> None:
        pass


class FakeEpoll:
    """The first `num_ready` of the registered file descriptors are ready at each poll."""

    def __init__(self) -> None:
        self.fds: list[int] = []
        self.num_ready = 0

    def fileno(self) -> int:
        return 1_000

    def register(self, fd: int, events: int) -> None:
        self.fds.append(fd)

    def unregister(self, fd: int) -> None:
        self.fds.remove(fd)

    def poll(self, timeout: float) -> list[tuple[int, int]]:
        return [(fd, 1) for fd in self.fds[: self.num_ready]]

    def close(self) -> None:
        pass


class Told:
    """Calls back when it is told to read."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self.on_readable = callback

    def on_read(self, data: bytes, read_ns: int, wall_ns: int | None, num_reads: int) -> None:
        raise AssertionError

    def on_read_error(self, error: OSError) -> None:
        raise AssertionError


class Rig:
    """A poller of `num_streams` streams on a manual clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, num_streams: int) -> None:
        self.now_ns = 0
        self.alarm, self.epoll, self.loop = FakeAlarm(), FakeEpoll(), FakeLoop()
        monkeypatch.setattr(read_poller, "perf_counter_ns", lambda: self.now_ns)
        monkeypatch.setattr(read_poller, "create_alarm", lambda loop, callback: self.alarm)
        monkeypatch.setattr(epoll_reads.select, "epoll", lambda: self.epoll)
        self.poller = RestingPoller(self.loop, EpollReads(nothing_due))  # type: ignore[arg-type]
        self.num_calls = 0
        for fd in range(num_streams):
            self.poller.add(fd, Told(self._count))

    def _count(self) -> None:
        self.num_calls += 1

    def run(self, reads_per_ms: int, num_ms: int, num_coalesced: int = 0) -> bool:
        """Whether the poller rests after `num_ms` of this load, polled once each ms."""
        self.epoll.num_ready = reads_per_ms
        for index in range(num_ms):
            self.now_ns += 1_000_000
            for _ in range(num_coalesced if index == 0 else 0):
                self.poller.note_coalesced()
            self.poller._serve()
        return self.epoll.fileno() not in self.loop.watched


def test_rests_only_under_high_load(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(monkeypatch, num_streams=256)
    assert not rig.run(reads_per_ms=2, num_ms=30)
    assert rig.run(reads_per_ms=25, num_ms=30)
    assert rig.alarm.set_ns[-1] == rig.now_ns + read_poller.REST_NS
    assert not rig.run(reads_per_ms=2, num_ms=30)
    assert rig.num_calls == 30 * (2 + 25 + 2)


def test_never_rests_where_chunks_of_a_stream_are_close(monkeypatch: pytest.MonkeyPatch) -> None:
    # 25 reads a ms of 100 streams: 4 ms from chunk to chunk.
    assert not Rig(monkeypatch, num_streams=100).run(reads_per_ms=25, num_ms=50)


def test_stops_resting_when_segments_coalesce(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(monkeypatch, num_streams=256)
    assert rig.run(reads_per_ms=25, num_ms=30)
    assert rig.run(reads_per_ms=25, num_ms=30, num_coalesced=1)
    assert not rig.run(reads_per_ms=25, num_ms=30, num_coalesced=20)
    assert not rig.run(reads_per_ms=25, num_ms=900)
    assert rig.run(reads_per_ms=25, num_ms=100)


def test_a_stream_closed_by_an_earlier_one_is_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(monkeypatch, num_streams=0)
    called: list[str] = []
    rig.poller.add(1, Told(lambda: (called.append("first"), rig.poller.remove(2))[0]))
    rig.poller.add(2, Told(lambda: called.append("second")))
    rig.run(reads_per_ms=2, num_ms=1)
    assert called == ["first"]
    rig.poller.remove(2)  # again


def test_a_callback_that_raises_does_not_stop_the_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(monkeypatch, num_streams=256)
    assert rig.run(reads_per_ms=25, num_ms=30)

    def fail() -> None:
        raise RuntimeError

    for fd in range(256):
        rig.poller.remove(fd)
        rig.poller.add(fd, Told(fail))
    with pytest.raises(RuntimeError):
        rig.run(reads_per_ms=25, num_ms=1)
    assert rig.alarm.set_ns[-1] == rig.now_ns + read_poller.REST_NS
