"""Any server that speaks the OpenAI protocol; other engines are this adapter with a dialect of their own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from llmbench.engines.adapter import Capabilities, CountTokens, EngineError, EngineOptions, LaunchPlan
from llmbench.engines.answer import read_answer
from llmbench.engines.http_payload import post_json
from llmbench.engines.metric_map import MetricMap
from llmbench.engines.openai_answer import OpenAIAnswer
from llmbench.engines.settings import flag, mapping, refuse_unknown
from llmbench.engines.wire import DecodedAnswer, Endpoint, GenerationRequest, Timeline, WireRequest

REQUEST_SETTINGS = ("extra_body", "ignore_eos")


@dataclass(frozen=True, slots=True)
class Dialect:
    """What an engine adds to the protocol, as data.

    `extra_body` goes into every request that does not say otherwise, `stream_options` into every streamed one.
    `ignore_eos` says that the engine takes a field of that name. `ids_body` is what asks it for the ids of its tokens.
    `exact_token_counts` says that these extras make it count its tokens chunk by chunk. `zero_is_greedy` is false where
    temperature 0 is refused: greedy is top_k 1 then. `ends_with_done` is false where no [DONE] follows the event with
    the finish reason. `tokenize_path` is where the server tells the `count` of a `prompt`'s tokens. `metrics` says what
    it tells Prometheus of itself. `headers` go with every HTTP request.
    """

    name: str = "openai"
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    stream_options: Mapping[str, Any] = field(default_factory=lambda: {"include_usage": True})
    ignore_eos: bool = True
    ids_body: Mapping[str, Any] = field(default_factory=dict)
    exact_token_counts: bool = False
    zero_is_greedy: bool = True
    ends_with_done: bool = True
    tokenize_path: str | None = None
    metrics: MetricMap | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


class OpenAIAdapter:
    """Speaks `dialect`, changed by the settings `extra_body` (fields for every request; null takes a field out) and
    `ignore_eos` (false where a server refuses the field)."""

    def __init__(self, dialect: Dialect | None = None, settings: Mapping[str, object] | None = None) -> None:
        self.dialect = dialect or Dialect()
        self.name = self.dialect.name
        settings = settings or {}
        refuse_unknown(self.name, settings, [*REQUEST_SETTINGS, *self.launch_settings()])
        self._extra_body = mapping(self.name, settings, "extra_body")
        ignore_eos = flag(self.name, settings, "ignore_eos", self.dialect.ignore_eos)
        self.capabilities = Capabilities(
            ignore_eos=ignore_eos,
            exact_token_counts=self.dialect.exact_token_counts,
            metrics=self.dialect.metrics,
        )

    def with_settings(self, settings: Mapping[str, object]) -> Self:
        """The same engine with a workload's `settings`. Raises EngineError for one it does not know."""
        return type(self)(self.dialect, settings)

    def launch_settings(self) -> Iterable[str]:
        """Names of the settings that decide how the engine is started."""
        return ()

    def encode(self, request: GenerationRequest, endpoint: Endpoint) -> WireRequest:
        if (request.prompt is None) == (request.messages is None):
            raise EngineError(f"Request {request.request_id} must have either a prompt or messages.")
        body: dict[str, Any] = {**self.dialect.extra_body, "model": request.model}
        if request.messages is None:
            body["prompt"] = request.prompt
        else:
            body["messages"] = [{"role": message.role, "content": message.content} for message in request.messages]
        body |= {"max_tokens": request.max_tokens, "temperature": request.temperature, "top_p": request.top_p}
        body |= {"seed": request.seed, "stop": list(request.stop) or None, "stream": request.stream}
        if request.top_k is not None:
            body["top_k"] = request.top_k
        if request.temperature == 0 and not self.dialect.zero_is_greedy:
            body |= {"temperature": 1.0, "top_k": 1}
        if request.stream:
            body["stream_options"] = dict(self.dialect.stream_options) or None
        if request.ignore_eos and self.capabilities.ignore_eos:
            body["ignore_eos"] = True
        if request.token_ids:
            body |= self.dialect.ids_body
        body |= self._extra_body
        versioned = endpoint.base_path.rstrip("/").endswith("/v1")
        route = "/completions" if request.messages is None else "/chat/completions"
        return post_json(
            endpoint,
            route if versioned else f"/v1{route}",
            {name: value for name, value in body.items() if value is not None},
            request.request_id,
            accept="text/event-stream" if request.stream else "application/json",
            headers=self.dialect.headers,
        )

    def decode(
        self, request: GenerationRequest, timeline: Timeline, count_tokens: CountTokens | None = None
    ) -> DecodedAnswer:
        answer = OpenAIAnswer(self.dialect.ends_with_done)
        return read_answer(answer, timeline, count_tokens, streamed=request.stream)

    def launch_plan(self, options: EngineOptions, port: int) -> LaunchPlan | None:
        return None
