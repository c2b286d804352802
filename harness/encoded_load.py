"""Planned requests as an engine's bytes, ready to be sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmbench.engines.adapter import Adapter
from llmbench.engines.wire import DecodedAnswer, Endpoint, GenerationRequest, Timeline, WireRequest
from llmbench.harness.agenda import Outgoing
from llmbench.harness.conversation import Conversations
from llmbench.harness.plan import PlannedRequest


@dataclass(frozen=True, slots=True)
class EncodedLoad:
    """What `run_load` sends: `outgoing` beforehand, and of `conversations` each later turn when its time has come."""

    outgoing: tuple[Outgoing, ...]
    conversations: Conversations | None

    @classmethod
    def of(cls, requests: Sequence[PlannedRequest], adapter: Adapter, endpoint: Endpoint) -> EncodedLoad:
        """`requests` for the engine at `endpoint`. Raises EngineError for one that the engine cannot be asked."""

        def encode(request: GenerationRequest) -> WireRequest:
            return adapter.encode(request, endpoint)

        def decode(request: GenerationRequest, timeline: Timeline) -> DecodedAnswer:
            return adapter.decode(request, timeline)

        outgoing = tuple(
            Outgoing(request.request_id, request.due_offset_ns, encode(request.generation))
            for request in requests
            if request.after is None
        )
        if len(outgoing) == len(requests):
            return cls(outgoing, None)
        return cls(outgoing, Conversations(requests, encode, decode))
