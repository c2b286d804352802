"""Text Generation Inference by its own routes, /generate and /generate_stream; attached to by url.

What is stated of the router was read in its sources (3.3.6) and its OpenAPI document, and has not been run against it.
"""

from __future__ import annotations

import json
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
from llmbench.engines.answer import Answer, count, read_answer, token_ids, whole_text
from llmbench.engines.http_payload import post_json
from llmbench.engines.metric_map import TGI
from llmbench.engines.server_message import header
from llmbench.engines.settings import mapping, refuse_unknown
from llmbench.engines.token_counts import Delta
from llmbench.engines.wire import DecodedAnswer, Endpoint, FailureKind, GenerationRequest, Timeline, WireRequest

_MAX_STOP_TEXTS = 4

HUB_CLIENT = "huggingface_hub"
# What its text_generation takes beside the prompt and how it is to answer.
HUB_PARAMETERS = (
    "adapter_id",
    "best_of",
    "decoder_input_details",
    "details",
    "do_sample",
    "frequency_penalty",
    "grammar",
    "max_new_tokens",
    "repetition_penalty",
    "return_full_text",
    "seed",
    "stop",
    "temperature",
    "top_k",
    "top_n_tokens",
    "top_p",
    "truncate",
    "typical_p",
    "watermark",
)


class TgiAdapter:
    """The setting `parameters` adds to or changes the `parameters` of every request; null takes one out.

    `client: huggingface_hub` asks through that library's client in place of llmbench's own.
    """

    name = "tgi"
    # A token per event, with its id. No route lets an answer go on after the end token.
    capabilities = Capabilities(chat=False, ignore_eos=False, exact_token_counts=True, metrics=TGI)

    def __init__(self, settings: Mapping[str, object] | None = None) -> None:
        settings = settings or {}
        refuse_unknown(self.name, settings, ["client", "parameters"])
        self._parameters = mapping(self.name, settings, "parameters")
        if settings.get("client") not in (None, HUB_CLIENT):
            raise EngineError(
                f"settings.client of {self.name} is {HUB_CLIENT} or left out; got {settings['client']!r}."
            )
        self._by_hub = settings.get("client") is not None
        if self._by_hub and find_spec(HUB_CLIENT) is None:
            raise MissingPackageError('The client huggingface_hub is not installed: pip install "llmbench[hub]"')

    def with_settings(self, settings: Mapping[str, object]) -> Self:
        """The same engine with a workload's `settings`. Raises EngineError for one it does not know."""
        return type(self)(settings)

    def encode(self, request: GenerationRequest, endpoint: Endpoint) -> WireRequest:
        if request.prompt is None:
            raise EngineError(
                f"Request {request.request_id} is a chat, and tgi's own routes take prompts: set request.api to "
                "completions, or ask the engine tgi-openai."
            )
        if len(request.stop) > _MAX_STOP_TEXTS:
            raise EngineError(f"tgi takes at most {_MAX_STOP_TEXTS} stop texts; request.stop has {len(request.stop)}.")
        parameters: dict[str, Any] = {
            "max_new_tokens": request.max_tokens,
            "details": True,
            "return_full_text": False,
            "do_sample": request.temperature > 0,
            # The router refuses temperature 0 and top_p 1: greedy and "all" are said by leaving them out.
            "temperature": request.temperature if request.temperature > 0 else None,
            "top_p": request.top_p if request.top_p < 1 else None,
            "top_k": request.top_k,
            "seed": request.seed,
            "stop": list(request.stop) or None,
        }
        parameters |= self._parameters
        kept = {name: value for name, value in parameters.items() if value is not None}
        if self._by_hub:
            refuse_unknown("huggingface_hub's text_generation", kept, HUB_PARAMETERS)
            arguments = {"prompt": request.prompt, "stream": request.stream, **kept}
            return WireRequest("hub", endpoint, json.dumps(arguments).encode())
        return post_json(
            endpoint,
            "/generate_stream" if request.stream else "/generate",
            {"inputs": request.prompt, "parameters": kept},
            request.request_id,
            accept="text/event-stream" if request.stream else "application/json",
        )

    def decode(
        self, request: GenerationRequest, timeline: Timeline, count_tokens: CountTokens | None = None
    ) -> DecodedAnswer:
        answer = TgiAnswer()
        # Only an answer in one piece has this header, and only a stream says it in its details.
        prompt_tokens = header(timeline, "x-prompt-tokens")
        if prompt_tokens is not None and prompt_tokens.isdecimal():
            answer.prompt_tokens = count(int(prompt_tokens[:12]))
        return read_answer(answer, timeline, count_tokens, streamed=request.stream)

    def launch_plan(self, options: EngineOptions, port: int) -> LaunchPlan | None:
        return None


class TgiAnswer(Answer):
    """Events of one token each, the last with the whole text; or that whole text at once, with its tokens."""

    def __init__(self) -> None:
        super().__init__()
        self._is_complete = False

    def missing_end(self) -> str | None:
        # There is no [DONE]; a router that dies in mid-stream just stops.
        return None if self._is_complete else "the final event that holds generated_text"

    def error_kind(self, body: dict[str, Any]) -> FailureKind:
        # A stream that is refused for overload has status 200 all the same; in one piece it would have been 429.
        overloaded = body.get("error_type") == "overloaded"
        return FailureKind.RATE_LIMITED if overloaded else FailureKind.SERVER_ERROR

    def take(self, body: dict[str, Any], chunk: int) -> None:
        details = body.get("details")
        details = details if isinstance(details, dict) else {}
        whole = body.get("generated_text")
        self._is_complete = self._is_complete or isinstance(whole, str)
        finishes = self.finish(details.get("finish_reason"))
        self._count(details)
        token = body.get("token")
        if isinstance(token, dict):
            self.has_answer = True
            # The end token is sent like any other, marked special: a token, and no text.
            text = "" if token.get("special") is True else token.get("text")
            self.deltas.append(_delta(chunk, text, [token], finishes))
        elif isinstance(whole, str):
            self.has_answer = True
            self.deltas.append(_delta(chunk, whole, details.get("tokens"), finishes))

    def _count(self, details: dict[str, Any]) -> None:
        generated, prompt = count(details.get("generated_tokens")), count(details.get("input_length"))
        self.output_tokens = self.output_tokens if generated is None else generated
        self.prompt_tokens = self.prompt_tokens if prompt is None else prompt


def _delta(chunk: int, text: Any, tokens: Any, finishes: bool) -> Delta:
    listed = tokens if isinstance(tokens, list) else [None]
    ids = token_ids([token.get("id") if isinstance(token, dict) else None for token in listed])
    return Delta(chunk, whole_text(text) if isinstance(text, str) else "", finishes=finishes, token_ids=ids)
