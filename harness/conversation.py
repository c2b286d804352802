"""Later turns of conversations, made whole once the answer to the one before is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from llmbench.engines.wire import (
    ChatMessage,
    DecodedAnswer,
    Failure,
    FailureKind,
    GenerationRequest,
    Timeline,
    WireRequest,
)
from llmbench.harness.plan import PlannedRequest

Encode = Callable[[GenerationRequest], WireRequest]
Decode = Callable[[GenerationRequest, Timeline], DecodedAnswer]


@dataclass(frozen=True, slots=True)
class FollowUp:
    """A later turn ready to go: `wire` is to be sent at `due_ns`, on the clock of the timelines."""

    request_id: str
    due_ns: int
    wire: WireRequest


class Conversations:
    """The conversations of one trial. `encode` and `decode` are the adapter's, with the endpoint filled in."""

    def __init__(self, requests: Sequence[PlannedRequest], encode: Encode, decode: Decode) -> None:
        self._encode, self._decode = encode, decode
        self._turn_after = {request.after: request for request in requests if request.after is not None}
        # Each turn as it was sent, until its answer has come.
        self._sent = {
            request.request_id: request.generation
            for request in requests
            if request.after is None and request.request_id in self._turn_after
        }

    @property
    def num_to_come(self) -> int:
        """Later turns that neither `follow` nor `abandoned` has given yet."""
        return len(self._turn_after)

    def follow(self, request_id: str, timeline: Timeline) -> FollowUp | None:
        """The turn behind the one that has just ended; None where there is none or the answer failed.

        It is due its time to think after the answer's end.
        """
        before = self._sent.pop(request_id, None)
        if before is None or timeline.failure is not None:
            return None
        answer = self._decode(before, timeline)
        if answer.failure is not None:
            return None
        assert timeline.end_ns is not None
        turn = self._turn_after.pop(request_id)
        generation = continued(turn.generation, before, answer.text)
        if turn.request_id in self._turn_after:
            self._sent[turn.request_id] = generation
        return FollowUp(turn.request_id, timeline.end_ns + turn.think_ns, self._encode(generation))

    def abandoned(self, request_id: str, timeline: Timeline) -> list[tuple[str, Timeline]]:
        """The turns that cannot be asked any more after `follow` gave None: failures, each a row of its own."""
        assert timeline.end_ns is not None
        why = Failure(FailureKind.CANCELLED, f"The turn before, {request_id}, failed, so this one was not asked.")
        rows: list[tuple[str, Timeline]] = []
        while (turn := self._turn_after.pop(request_id, None)) is not None:
            request_id = turn.request_id
            rows.append((request_id, Timeline(timeline.end_ns, end_ns=timeline.end_ns, failure=why)))
        return rows


def continued(request: GenerationRequest, before: GenerationRequest, answer: str) -> GenerationRequest:
    """`request`, which holds its own words alone, behind everything that was said until then.

    `before` is the turn before as it was sent, so with its own history, and `answer` the whole text it got. A chat gets
    the answer as the assistant's message; a completion goes on in a new line.
    """
    if before.messages is not None:
        assert request.messages is not None
        answered = ChatMessage(role="assistant", content=answer)
        return replace(request, messages=(*before.messages, answered, *request.messages))
    assert before.prompt is not None
    assert request.prompt is not None
    return replace(request, prompt=f"{before.prompt}{answer}\n{request.prompt}")
