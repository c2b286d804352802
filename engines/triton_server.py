"""NVIDIA's Triton Inference Server: HTTP by its generate extension, or gRPC by ModelStreamInfer.

Attached to by url it serves any model; started here, it serves the bundled engine through its Python backend.

By HTTP each answer is JSON, streamed as events without [DONE]. Triton's traps there: an error in the first response has
status 400 and a body of events, a later one status 200; a model that says nothing at all gives status 200 and no event.
By gRPC a call may end well without a word, and so the flag of its final response is asked for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, Literal, Self
from urllib.parse import quote

from llmbench.engines.adapter import (
    Capabilities,
    CountTokens,
    EngineError,
    EngineOptions,
    LaunchPlan,
    MissingPackageError,
)
from llmbench.engines.answer import Answer, count, read_answer, read_messages, token_ids, whole_text
from llmbench.engines.http_payload import post_json
from llmbench.engines.metric_map import TRITON
from llmbench.engines.server_message import error_in
from llmbench.engines.settings import mapping, refuse_unknown
from llmbench.engines.token_counts import Delta
from llmbench.engines.triton_config import problem_with
from llmbench.engines.triton_launch import ENGINE_SETTINGS, launch_plan
from llmbench.engines.triton_schema import SCHEMAS, TritonSchema, read_schema
from llmbench.engines.wire import DecodedAnswer, Endpoint, FailureKind, GenerationRequest, Timeline, WireRequest

# Triton looks up a model by the bytes of the path as they come: ':' sent as %3A is another name to it.
PATH_CHARACTERS = ":@!$&'()*+,;="


class TritonAdapter:
    """Settings: `protocol` (http or grpc, default http), `schema` (vllm, trtllm, llmapi or a mapping, default vllm) and
    `extra_body` (inputs or parameters for every request; null takes one out); where Triton is started here, also the
    bundled engine's own. The request's model is the model's name in Triton's repository."""

    name = "triton"

    def __init__(self, settings: Mapping[str, object] | None = None) -> None:
        settings = settings or {}
        refuse_unknown(self.name, settings, ["extra_body", "protocol", "schema", *ENGINE_SETTINGS])
        self._extra_body = mapping(self.name, settings, "extra_body")
        self._schema = read_schema(settings.get("schema", "vllm"))
        self._protocol = _protocol(settings.get("protocol", "http"))
        self.capabilities = Capabilities(
            streaming=self._schema.stream is not None,
            chat=False,
            ignore_eos=self._schema.ignore_eos is not None,
            exact_token_counts=self._schema.num_output_tokens is not None,
            metrics=TRITON,
        )

    def with_settings(self, settings: Mapping[str, object]) -> Self:
        """The same engine with a workload's `settings`. Raises EngineError for one it does not know."""
        return type(self)(settings)

    def encode(self, request: GenerationRequest, endpoint: Endpoint) -> WireRequest:
        if request.prompt is None:
            raise EngineError(
                f"Request {request.request_id} is a chat, and Triton's models take prompts: set request.api to "
                "completions."
            )
        schema = self._schema
        if request.stream and schema.stream is None:
            raise EngineError("The triton schema names no `stream` input, so request.stream must be false.")
        body: dict[str, Any] = {"id": request.request_id, **schema.always, schema.prompt: request.prompt}
        if schema.stream is not None:
            body[schema.stream] = request.stream
        sampling = _sampling(request, schema)
        body |= {schema.sampling_json: json.dumps(sampling)} if schema.sampling_json is not None else sampling
        body = {name: value for name, value in (body | self._extra_body).items() if value is not None}
        if self._protocol == "grpc":
            return self._encode_call(request, endpoint, body)
        return post_json(
            endpoint,
            f"{_path(request.model)}/{'generate_stream' if request.stream else 'generate'}",
            body,
            request.request_id,
            accept="text/event-stream" if request.stream else "application/json",
        )

    def inspection_path(self, model: str) -> str | None:
        """Where the server tells how `model` is configured; None by gRPC, whose port answers no HTTP."""
        return f"{_path(model)}/config" if self._protocol == "http" else None

    def inspect(self, model: str, body: bytes) -> str | None:
        """What keeps a model with the configuration `body` from being asked, None if nothing."""
        schema = self._schema
        sampling = [schema.max_tokens] if schema.sampling_json is None else [schema.sampling_json]
        wanted = [schema.prompt, schema.stream, *sampling, *schema.always]
        left_out = {name for name, value in self._extra_body.items() if value is None}
        sent = [name for name in wanted if name is not None and name not in left_out]
        given = [name for name, value in self._extra_body.items() if value is not None]
        read = [name for name in (schema.text, schema.finish_reason) if name is not None]
        return problem_with(body, model, sent, read, may_be_given=given)

    def decode(
        self, request: GenerationRequest, timeline: Timeline, count_tokens: CountTokens | None = None
    ) -> DecodedAnswer:
        if self._protocol == "http":
            return read_answer(TritonAnswer(self._schema), timeline, count_tokens, streamed=request.stream)
        answer = TritonCallAnswer(self._schema)
        return read_messages(answer, timeline, count_tokens, answer.take_message, streamed=request.stream)

    def launch_plan(self, options: EngineOptions, port: int) -> LaunchPlan | None:
        if self._schema != SCHEMAS["vllm"]:
            raise EngineError(
                "Started here, triton serves the bundled engine, whose tensors are those of the schema vllm; leave "
                "settings.schema out, or give the url of a server with another model."
            )
        return launch_plan(options, port, self._protocol)

    def _encode_call(self, request: GenerationRequest, endpoint: Endpoint, body: dict[str, Any]) -> WireRequest:
        from llmbench.engines import triton_grpc

        # Triton answers an error without a word on whose it is: so one request to a call, and no id among its inputs.
        inputs = {name: value for name, value in body.items() if name != "id"}
        schema = self._schema
        payload = triton_grpc.encode_request(
            request.model, request.request_id, inputs, schema.datatypes, batched=schema.is_batched
        )
        return WireRequest("grpc", endpoint, payload, triton_grpc.METHOD)


class TritonAnswer(Answer):
    """Responses of a decoupled model, one event each, or its only response."""

    def __init__(self, schema: TritonSchema) -> None:
        super().__init__()
        self._schema = schema
        self._text_so_far = ""
        self._tokens_so_far = 0

    def missing_end(self) -> str | None:
        # Other than by a finish reason a stream ends by closing its HTTP body, and the transport notices a cut.
        is_told = self._schema.finish_reason is not None
        return "a finish_reason" if is_told and self.finish_reason is None else None

    def take(self, body: dict[str, Any], chunk: int) -> None:
        schema = self._schema
        text = _only(body.get(schema.text))
        if not isinstance(text, str):
            return
        self.has_answer = True
        reason = _only(body.get(schema.finish_reason)) if schema.finish_reason is not None else None
        # vLLM's backend puts Python's None into words until there is a reason.
        finishes = self.finish(None if reason == "None" else reason)
        prompt_tokens = count(_only(body.get(schema.num_prompt_tokens))) if schema.num_prompt_tokens else None
        self.prompt_tokens = self.prompt_tokens if prompt_tokens is None else prompt_tokens
        total = self._count(body)
        if schema.token_ids is not None and (told := body.get(schema.token_ids)) is not None:
            ids = token_ids(told if isinstance(told, list) else [told])
            self.token_ids = None if ids is None else tuple(ids)
        self.deltas.append(Delta(chunk, whole_text(self._new(text)), finishes=finishes, total_so_far=total))

    def _count(self, body: dict[str, Any]) -> int | None:
        name = self._schema.num_output_tokens
        tokens = count(_only(body.get(name))) if name is not None else None
        if tokens is None:
            return None
        self._tokens_so_far += tokens
        self.output_tokens = self._tokens_so_far
        return self._tokens_so_far

    def _new(self, text: str) -> str:
        if not self._schema.is_cumulative:
            return text
        before, self._text_so_far = self._text_so_far, text
        if text.startswith(before):
            return text[len(before) :]
        # Half a character at the end has turned into another one: all from the first difference on is new.
        pairs = enumerate(zip(before, text, strict=False))
        return text[next((index for index, (old, new) in pairs if old != new), len(text)) :]


class TritonCallAnswer(TritonAnswer):
    """The same responses as messages of a call, each of which says whether it is the last."""

    def __init__(self, schema: TritonSchema) -> None:
        super().__init__(schema)
        self._is_final = False

    def missing_end(self) -> str | None:
        return None if self._is_final else "its final response"

    def take_message(self, data: bytes, chunk: int) -> None:
        from llmbench.engines import triton_grpc

        outputs, is_final = triton_grpc.decode_response(data)
        self._is_final = self._is_final or is_final
        error = error_in(outputs)
        if error is not None:
            self.fail(FailureKind.SERVER_ERROR, f"The server reported an error: {error}")
        elif outputs:
            self.take(outputs, chunk)


def _path(model: str) -> str:
    return f"/v2/models/{quote(model, safe=PATH_CHARACTERS)}"


def _protocol(setting: object) -> Literal["http", "grpc"]:
    if setting == "http":
        return "http"
    if setting != "grpc":
        raise EngineError(f"settings.protocol of triton must be http or grpc; got {setting!r}.")
    missing = [name for name in ("grpc", "google.protobuf") if find_spec(name.partition(".")[0]) is None]
    if missing:
        raise MissingPackageError(f'triton by gRPC needs {", ".join(missing)}: pip install "llmbench[grpc]"')
    return "grpc"


def _sampling(request: GenerationRequest, schema: TritonSchema) -> dict[str, Any]:
    """What decides the answer's tokens, by the schema's names; what it has no name for is left out."""
    is_greedy = request.temperature == 0
    top_k = 1 if is_greedy and not schema.zero_is_greedy else request.top_k
    values: list[tuple[str | None, Any]] = [
        (schema.max_tokens, request.max_tokens),
        (schema.temperature, request.temperature if schema.zero_is_greedy or not is_greedy else None),
        (schema.top_p, request.top_p if request.top_p < 1 else None),
        (schema.top_k, top_k),
        (schema.seed, request.seed),
        (schema.stop, list(request.stop) or None),
        (schema.ignore_eos, True if request.ignore_eos else None),
    ]
    return {name: value for name, value in values if name is not None and value is not None}


def _only(value: Any) -> Any:
    # A tensor of one element comes as a scalar, or as a list where its shape says so.
    return value[0] if isinstance(value, list) and len(value) == 1 else value
