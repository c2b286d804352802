"""Load workers on the nodes of a Ray cluster.

Ray places them, reaches them and tells when one is lost. On its node each is an actor that relays between the harness
and a worker process like those of one host: Ray's own threads never share an interpreter lock with what stamps.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from time import perf_counter_ns
from typing import Any

from llmbench.engines.wire import Endpoint
from llmbench.harness.errors import ConfigError, MissingExtraError
from llmbench.harness.host_clock import ClockOffset, boot_id, measured_offset, shift
from llmbench.harness.load_orders import Assignment, Go, Ready
from llmbench.harness.loadgen import LoadReport
from llmbench.harness.local_worker import Inbox, LocalWorker
from llmbench.harness.recorder import Answered

_CONNECT_S = 10.0
_START_S = 60.0
_TAKE_S = 0.2
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Relay:
    """The actor: a local worker of its node, and the node's clock."""

    def __init__(self) -> None:
        self._inbox: Inbox = queue.SimpleQueue()
        self._worker = LocalWorker(0, self._inbox)
        # Calls come in several threads, and the worker listens to one pipe.
        self._telling = threading.Lock()

    def clock(self) -> tuple[str | None, int]:
        """The node's boot and the time there in ns."""
        return boot_id(), perf_counter_ns()

    def tell(self, order: object) -> None:
        with self._telling:
            self._worker.tell(order)

    def take(self) -> list[object]:
        """Replies since the last call, waiting a little for one; None is the last."""
        replies: list[object] = []
        with contextlib.suppress(queue.Empty):
            replies.append(self._inbox.get(timeout=_TAKE_S)[1])
            while True:
                replies.append(self._inbox.get_nowait()[1])
        return replies

    def ending(self) -> str:
        return self._worker.ending()


class RayWorker:
    """One worker of a `LoadCrew`, on any node; all its stamps are moved onto our clock. Inside `joined` only."""

    def __init__(self, number: int, inbox: Inbox) -> None:
        import ray

        self.number = number
        self.is_lost = False
        self._inbox = inbox
        # As many calls at a time: one waits for replies while others tell orders and the time.
        remote: Any = ray.remote
        self._relay = remote(num_cpus=1, max_concurrency=4, scheduling_strategy="SPREAD")(Relay).remote()
        try:
            ray.get(self._relay.clock.remote(), timeout=_START_S)
        except ray.exceptions.GetTimeoutError:
            raise ConfigError(
                f"--workers: no node of the Ray cluster took load worker {number + 1} within {_START_S:g} s; each "
                "needs a free CPU and llmbench installed there. Ask for fewer."
            ) from None
        except ray.exceptions.RayError as error:
            raise ConfigError(
                f"--on: load worker {number + 1} did not start on its node; is llmbench installed there? "
                f"({type(error).__name__})"
            ) from None
        self._is_closing = False
        self._clock = ClockOffset(0, 0)
        self._loss = "was lost"
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def tell(self, order: object) -> None:
        if isinstance(order, Assignment) and _is_local(order.endpoint) and not self._is_here():
            raise ConfigError(
                f"--on: a load worker runs on another host than {order.endpoint.url}, which only this one reaches; "
                "give the engine a url with this host's address, or keep the workers here."
            )
        if isinstance(order, Go):
            order = Go(order.start_ns + self._clock.offset_ns)
        self._relay.tell.remote(order)

    def ending(self) -> str:
        self.is_lost = True
        return self._loss

    def close(self) -> None:
        import ray

        self._is_closing = True
        self._listener.join()
        # The worker process ends with its relay, as it does with a harness.
        ray.kill(self._relay)

    def _listen(self) -> None:
        import ray

        try:
            while not self._is_closing:
                for reply in ray.get(self._relay.take.remote()):
                    if reply is None:
                        self._loss = ray.get(self._relay.ending.remote())
                        self._inbox.put((self.number, None))
                        return
                    self._inbox.put((self.number, self._on_our_clock(reply)))
        except ray.exceptions.RayError as error:
            self._loss = f"was lost with its Ray actor ({type(error).__name__})"
            self._inbox.put((self.number, None))

    def _on_our_clock(self, reply: object) -> object:
        match reply:
            case Ready():
                self._clock = self._measure()
            case Answered(_, timeline) if self._clock.offset_ns:
                shift(timeline, -self._clock.offset_ns)
            case LoadReport():
                after = self._measure()
                # The stamps were moved by the first offset, and the clocks may have drifted since.
                drift_ns = abs(after.offset_ns - self._clock.offset_ns)
                error_ns = max(after.error_ns, self._clock.error_ns) + drift_ns
                return replace(
                    reply,
                    start_ns=reply.start_ns - self._clock.offset_ns,
                    end_ns=reply.end_ns - self._clock.offset_ns,
                    instrument=reply.instrument.model_copy(update={"clock_error_ns": error_ns}),
                )
        return reply

    def _measure(self) -> ClockOffset:
        if self._is_here():
            return ClockOffset(0, 0)
        return measured_offset(lambda: self._ask()[1])

    def _is_here(self) -> bool:
        """Whether the worker's host is this one, so that there is one clock."""
        theirs, ours = self._ask()[0], boot_id()
        return theirs is not None and theirs == ours

    def _ask(self) -> tuple[str | None, int]:
        import ray

        told: tuple[str | None, int] = ray.get(self._relay.clock.remote())
        return told


@contextlib.contextmanager
def joined(address: str) -> Iterator[None]:
    """This process as a driver of the Ray cluster at `address`: `ray` for the one that runs here or that RAY_ADDRESS
    names, HOST:PORT, or ray://HOST:PORT.

    Raises MissingExtraError without Ray, ConfigError where there is no cluster.
    """
    try:
        import ray
    except ImportError:
        raise MissingExtraError('--on ray needs Ray, which is not installed: pip install "llmbench[ray]"') from None
    _refuse_silence(address)
    try:
        ray.init(address="auto" if address == "ray" else address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"--on {address}: no Ray cluster answers ({reason}); start one with ray start --head, or give its address."
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def _is_local(endpoint: Endpoint) -> bool:
    return endpoint.unix_path is not None or endpoint.host in _LOOPBACK


def _refuse_silence(address: str) -> None:
    # Ray itself takes minutes to find that nobody listens.
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon:
        return
    try:
        socket.create_connection((host, int(port)), _CONNECT_S).close()
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"--on {address}: no Ray cluster answers ({error}); start one with ray start --head, or give its address."
        ) from None
