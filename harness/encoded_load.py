"""Planned requests as an engine's bytes, ready to be sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmbench.engines.adapter import Adapter
from llmbench.engines.wire import DecodedAnswer, Endpoint, GenerationRequest, Timeline, WireRequest
from llmbench.harness.agenda import Outgoing
from llmbench.harness.conversation import Conversations
from llmbench.harness.plan import PlannedRequest
from llmbench.harness.retries import Retries
from llmbench.workloads.spec import RetrySpec


@dataclass(frozen=True, slots=True)
class EncodedLoad:
    """What `run_load` sends: `outgoing` beforehand, of `conversations` each later turn when its time has come, and
    again what `retries` says."""

    outgoing: tuple[Outgoing, ...]
    conversations: Conversations | None
    retries: Retries | None = None

    @classmethod
    def of(
        cls,
        requests: Sequence[PlannedRequest],
        adapter: Adapter,
        endpoint: Endpoint,
        retries: RetrySpec | None = None,
    ) -> EncodedLoad:
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
        again = None
        if retries is not None:
            again = Retries(retries, {request.request_id: request.generation for request in requests}, decode)
        if len(outgoing) == len(requests):
            return cls(outgoing, None, again)
        return cls(outgoing, Conversations(requests, encode, decode), again)
