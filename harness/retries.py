"""Failed requests that are sent again, and when.

tenacity and its like do not fit: they own the call and sleep between two of them, with unseeded jitter, while here an
attempt is an event with a due time on the agenda that a slot, a stop or a lost worker may come between.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from random import Random

from llmbench.engines.server_message import header
from llmbench.engines.wire import DecodedAnswer, FailureKind, GenerationRequest, Timeline, WireRequest
from llmbench.harness.conversation import Decode, FollowUp
from llmbench.harness.environment import utc_now
from llmbench.workloads.spec import RetrySpec

_NS_PER_S = 1_000_000_000
# Failures that only a look into a whole answer with status 200 shows.
_IN_ANSWER = frozenset({FailureKind.SERVER_ERROR, FailureKind.TRUNCATED, FailureKind.MALFORMED})


class Retries:
    """The attempts of one load. `asked` has each request as it is decoded, by id; `decode` is the adapter's."""

    def __init__(
        self,
        policy: RetrySpec,
        asked: Mapping[str, GenerationRequest],
        decode: Decode,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._policy = policy
        self._asked = asked
        self._decode = decode
        self._now = now
        self._kinds = frozenset(FailureKind(kind) for kind in policy.on)
        # (attempt, due of the first) of those that wait to be sent again.
        self._waiting: dict[str, tuple[int, int]] = {}

    def begin(self, request_id: str, timeline: Timeline) -> None:
        """Note in the timeline of a request that is about to be sent which attempt it is."""
        if (known := self._waiting.pop(request_id, None)) is not None:
            timeline.attempt, timeline.first_due_ns = known

    def again(self, request_id: str, wire: WireRequest, timeline: Timeline) -> FollowUp | None:
        """The next attempt after the one that has just ended; None where it did not fail, or not so."""
        if timeline.attempt >= self._policy.attempts or not self._may_pass(
            self._failure(request_id, timeline), timeline
        ):
            return None
        wait_s = self._wait_s(request_id, timeline)
        if wait_s > self._policy.max_wait_s:
            return None
        assert timeline.end_ns is not None
        first_due_ns = timeline.due_ns if timeline.first_due_ns is None else timeline.first_due_ns
        self._waiting[request_id] = (timeline.attempt + 1, first_due_ns)
        timeline.retry_due_ns = timeline.end_ns + round(wait_s * _NS_PER_S)
        return FollowUp(request_id, timeline.retry_due_ns, wire)

    def _failure(self, request_id: str, timeline: Timeline) -> FailureKind | None:
        # An answer with status 200 is decoded here only where its contents may matter: the event loop pays for it.
        is_well = timeline.failure is None and timeline.status is not None and timeline.status < 300
        if is_well and not self._kinds & _IN_ANSWER:
            return None
        answer: DecodedAnswer = self._decode(self._asked[request_id], timeline)
        failure = answer.failure or timeline.failure
        return None if failure is None else failure.kind

    def _may_pass(self, kind: FailureKind | None, timeline: Timeline) -> bool:
        if kind is FailureKind.HTTP_STATUS and timeline.status is not None and timeline.status < 500:
            return False
        return kind in self._kinds

    def _wait_s(self, request_id: str, timeline: Timeline) -> float:
        policy = self._policy
        # Of the request and attempt alone, so that it is the same whoever else fails and in whichever process.
        random = Random(f"{policy.seed}/{request_id}/{timeline.attempt}")
        growth = 2.0 ** (timeline.attempt - 1) if policy.backoff == "exponential" else 1.0
        wait_s = min(policy.wait_s * growth, policy.max_wait_s) * (1 - policy.jitter * random.random())
        asked_s = retry_after_s(timeline, self._now()) if policy.honour_retry_after else None
        return wait_s if asked_s is None else max(wait_s, asked_s)


def retry_after_s(timeline: Timeline, now: datetime) -> float | None:
    """The wait that the answer's Retry-After asks for, in s; a date counts from `now`; None without one that
    can be read. Source: RFC 9110, section 10.2.3."""
    text = header(timeline, "retry-after")
    if text is None:
        return None
    text = text.strip()
    if text.isascii() and text.isdigit():
        return float(text[:12])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now.timestamp())
    except (ValueError, OverflowError):
        return None
