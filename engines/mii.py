"""DeepSpeed-MII's persistent deployment by gRPC, at its load balancer or straight at a replica.

A stream is a message per token and an empty one at the end. A replica that loses a client in mid-stream, by a cancel or
by a deadline, is poisoned: what that thread serves next fails with "uid mismatch". So a call that has run into a
timeout is counted as failed, and goes on unheard. The load balancer swallows errors in a stream: they show as timeouts.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, Self

from llmbench.engines.adapter import (
    Capabilities,
    CountTokens,
    EngineError,
    EngineOptions,
    LaunchPlan,
    MissingPackageError,
)
from llmbench.engines.answer import Answer, count, read_messages, whole_text
from llmbench.engines.mii_arguments import generation_arguments, prompt_of
from llmbench.engines.settings import mapping, refuse_unknown
from llmbench.engines.token_counts import Delta
from llmbench.engines.wire import DecodedAnswer, Endpoint, GenerationRequest, Timeline, WireRequest

SERVICE = "/modelresponse.ModelResponse"


class MiiAdapter:
    """The setting `extra_body` adds to or changes the arguments of generation; null takes one out. `serve` are
    arguments of `mii.serve`, for a deployment that is started here.

    A deployment serves one model, so the request's model is not sent.
    """

    name = "mii"
    capabilities = Capabilities(chat=False, exact_token_counts=True)

    def __init__(self, settings: Mapping[str, object] | None = None) -> None:
        refuse_unknown(self.name, settings or {}, ["extra_body", "serve"])
        if any(find_spec(package) is None for package in ("grpc", "google")):
            raise MissingPackageError('mii is asked by gRPC, which is not installed: pip install "llmbench[grpc]"')
        self._extra_body = mapping(self.name, settings or {}, "extra_body")
        self._serve = mapping(self.name, settings or {}, "serve")

    def with_settings(self, settings: Mapping[str, object]) -> Self:
        """The same engine with a workload's `settings`. Raises EngineError for one it does not know."""
        return type(self)(settings)

    def encode(self, request: GenerationRequest, endpoint: Endpoint) -> WireRequest:
        from llmbench.engines import mii_messages

        prompt = prompt_of(self.name, request)
        # Without the argument a streaming call answers in one piece.
        arguments = generation_arguments(self.name, request) | {"stream": request.stream} | self._extra_body
        try:
            payload = mii_messages.encode_request(
                prompt, {name: value for name, value in arguments.items() if value is not None}
            )
        except (TypeError, ValueError) as error:
            raise EngineError(f"Request {request.request_id} cannot be written for mii: {error}.") from None
        method = f"{SERVICE}/GeneratorReply{'Stream' if request.stream else ''}"
        return WireRequest("grpc", endpoint, payload, method, may_cancel=False)

    def decode(
        self, request: GenerationRequest, timeline: Timeline, count_tokens: CountTokens | None = None
    ) -> DecodedAnswer:
        answer = MiiAnswer()
        return read_messages(answer, timeline, count_tokens, answer.take_message, streamed=request.stream)

    def launch_plan(self, options: EngineOptions, port: int) -> LaunchPlan | None:
        """Raises EngineError on a machine that cannot run it, MissingPackageError where it is not installed."""
        from llmbench.engines.mii_launch import launch_plan

        return launch_plan(options, port, self._serve)


class MiiAnswer(Answer):
    """Replies to one prompt, each with its new text and how many tokens there are by now."""

    def missing_end(self) -> str | None:
        return None if self.finish_reason is not None else "a finish_reason"

    def take_message(self, data: bytes, chunk: int) -> None:
        from llmbench.engines import mii_messages

        for reply in mii_messages.decode_replies(data):
            self.take(reply, chunk)

    def take(self, body: dict[str, Any], chunk: int) -> None:
        self.has_answer = True
        reason = body["finish_reason"]
        finishes = self.finish(None if reason == "none" else reason)
        prompt_tokens, total = count(body["prompt_tokens"]), count(body["generated_tokens"])
        self.prompt_tokens = self.prompt_tokens if prompt_tokens is None else prompt_tokens
        self.output_tokens = self.output_tokens if total is None else total
        self.deltas.append(Delta(chunk, whole_text(body["response"]), finishes=finishes, total_so_far=total))
