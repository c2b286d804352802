"""What a load crew and its workers say to each other."""

from __future__ import annotations

from dataclasses import dataclass

from llmbench.engines.wire import Endpoint
from llmbench.harness.loadgen import ClockChoice
from llmbench.harness.recorder import AdapterRef
from llmbench.harness.share import Share
from llmbench.workloads.spec import RetrySpec, TimeoutSpec


@dataclass(frozen=True, slots=True)
class Assignment:
    """A worker's share of one trial. It replies `Ready`, and waits for `Go`."""

    share: Share
    adapter: AdapterRef
    endpoint: Endpoint
    timeouts: TimeoutSpec
    clock: ClockChoice
    retries: RetrySpec | None = None


@dataclass(frozen=True, slots=True)
class Ready:
    """The share is encoded."""


@dataclass(frozen=True, slots=True)
class Go:
    """Start the schedule at `start_ns`; the same instant for all workers. The last reply is the LoadReport."""

    start_ns: int


@dataclass(frozen=True, slots=True)
class Halt:
    """End the load before its time."""
