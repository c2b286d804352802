"""What a load has still to send, and which of it may go now."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from llmbench.engines.wire import WireRequest
from llmbench.harness.conversation import FollowUp


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A request ready to go, `due_offset_ns` after the start; None means as soon as a slot is free."""

    request_id: str
    due_offset_ns: int | None
    wire: WireRequest


class Due(NamedTuple):
    """A request whose time has come. `due_ns` is when it should have gone, on the clock of the timelines."""

    due_ns: int
    request_id: str
    wire: WireRequest


class Agenda:
    """The requests of one load and the slots that bound them. Pure: the caller has the clock.

    At most `concurrency` requests are out at a time, each between its `take` and its `end`. In a closed loop, where
    requests have no due time, a slot is kept from a conversation's first turn to the end of its last, think times
    included; on a schedule a later turn waits for a slot as any other request does.
    """

    def __init__(self, requests: Sequence[Outgoing], concurrency: int | None, start_ns: int) -> None:
        self._start_ns = start_ns
        self._is_closed_loop = any(request.due_offset_ns is None for request in requests)
        # Stable: requests due together leave in the order of the plan.
        self._waiting = deque(sorted(requests, key=lambda request: request.due_offset_ns or 0))
        # A heap by due time, then by order of coming: wires do not compare.
        self._turns: list[tuple[int, int, FollowUp]] = []
        self._num_turns_seen = 0
        # When each free slot became free, the longest free first.
        self._free_slots_ns = None if concurrency is None else deque([start_ns] * concurrency)

    def __len__(self) -> int:
        """Requests not yet taken; turns that nobody has added are not known here."""
        return len(self._waiting) + len(self._turns)

    def take(self, now_ns: int) -> Due | None:
        """The request that is due the longest among those that have a slot; None when none may go now."""
        due_ns = self.wake_ns()
        if due_ns is None or due_ns > now_ns:
            return None
        if due_ns == self._turn_due_ns():
            _, _, turn = heapq.heappop(self._turns)
            if not self._is_closed_loop:
                self._occupy()
            return Due(due_ns, turn.request_id, turn.wire)
        request = self._waiting.popleft()
        self._occupy()
        return Due(due_ns, request.request_id, request.wire)

    def wake_ns(self) -> int | None:
        """When the next request that has a slot is due; None where all of them wait for others to end."""
        return min(
            (due_ns for due_ns in (self._turn_due_ns(), self._first_due_ns()) if due_ns is not None), default=None
        )

    def end(self, end_ns: int, then: FollowUp | None = None) -> None:
        """A request that was taken ended at `end_ns`, and the turn `then` comes behind it."""
        if then is not None:
            heapq.heappush(self._turns, (then.due_ns, self._num_turns_seen, then))
            self._num_turns_seen += 1
        if self._free_slots_ns is not None and not (self._is_closed_loop and then is not None):
            self._free_slots_ns.append(end_ns)

    def _turn_due_ns(self) -> int | None:
        if not self._turns or not (self._is_closed_loop or self._has_slot()):
            return None
        return self._turns[0][0]

    def _first_due_ns(self) -> int | None:
        """When the first of the waiting requests is due; one without a schedule when its slot became free."""
        if not self._waiting or not self._has_slot():
            return None
        offset_ns = self._waiting[0].due_offset_ns
        if offset_ns is not None:
            return self._start_ns + offset_ns
        return self._start_ns if self._free_slots_ns is None else self._free_slots_ns[0]

    def _has_slot(self) -> bool:
        return self._free_slots_ns is None or bool(self._free_slots_ns)

    def _occupy(self) -> None:
        if self._free_slots_ns is not None:
            self._free_slots_ns.popleft()
