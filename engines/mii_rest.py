"""DeepSpeed-MII's RESTful gateway: answers in one piece only, so E2E is all it can show; attached to by url."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self
from urllib.parse import quote

from llmbench.engines.adapter import Capabilities, CountTokens, EngineOptions, LaunchPlan
from llmbench.engines.answer import Answer, count, read_answer, whole_text
from llmbench.engines.http_payload import post_json
from llmbench.engines.mii_arguments import generation_arguments, prompt_of
from llmbench.engines.settings import mapping, refuse_unknown
from llmbench.engines.token_counts import Delta
from llmbench.engines.wire import DecodedAnswer, Endpoint, GenerationRequest, Timeline, WireRequest


class MiiRestAdapter:
    """The setting `extra_body` adds to or changes the keyword arguments of generation; null takes one out.

    The request's model is the name of the deployment.
    """

    name = "mii-rest"
    capabilities = Capabilities(streaming=False, chat=False)

    def __init__(self, settings: Mapping[str, object] | None = None) -> None:
        refuse_unknown(self.name, settings or {}, ["extra_body"])
        self._extra_body = mapping(self.name, settings or {}, "extra_body")

    def with_settings(self, settings: Mapping[str, object]) -> Self:
        """The same engine with a workload's `settings`. Raises EngineError for one it does not know."""
        return type(self)(settings)

    def encode(self, request: GenerationRequest, endpoint: Endpoint) -> WireRequest:
        # Never asked to stream: the gateway would answer with the first token alone, under HTTP 200.
        body: dict[str, Any] = {"prompts": [prompt_of(self.name, request)], **generation_arguments(self.name, request)}
        body |= self._extra_body
        kept = {name: value for name, value in body.items() if value is not None}
        path = f"/mii/{quote(request.model, safe='')}"
        return post_json(endpoint, path, kept, request.request_id, accept="application/json")

    def decode(
        self, request: GenerationRequest, timeline: Timeline, count_tokens: CountTokens | None = None
    ) -> DecodedAnswer:
        return read_answer(MiiRestAnswer(), timeline, count_tokens, streamed=False)

    def launch_plan(self, options: EngineOptions, port: int) -> LaunchPlan | None:
        return None


class MiiRestAnswer(Answer):
    """A list with one object per prompt, of which there is one."""

    def unwrap(self, value: Any) -> dict[str, Any] | None:
        return super().unwrap(value[0] if isinstance(value, list) and len(value) == 1 else value)

    def take(self, body: dict[str, Any], chunk: int) -> None:
        text = body.get("generated_text")
        if isinstance(text, str):
            self.has_answer = True
            self.prompt_tokens = count(body.get("prompt_length"))
            self.output_tokens = count(body.get("generated_length"))
            self.deltas.append(Delta(chunk, whole_text(text), finishes=self.finish(body.get("finish_reason"))))
