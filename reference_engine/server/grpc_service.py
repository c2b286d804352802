"""The answers by gRPC, as generation.proto says. Needs the extra llmbench[grpc]."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from http import HTTPStatus
from importlib import resources
from typing import Any

import grpc.aio
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from pydantic_core import from_json

from llmbench.reference_engine.errors import ConfigError
from llmbench.reference_engine.server.answers import Answer
from llmbench.reference_engine.server.errors import ApiError, as_api_error
from llmbench.reference_engine.server.generation import Delta, merged
from llmbench.reference_engine.server.intake import MAX_BODY_BYTES, Intake
from llmbench.reference_engine.server.logs import log_failure
from llmbench.reference_engine.server.request_ids import known_as

SERVICE = "llmbench.Generation"
_CODES = {
    HTTPStatus.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    HTTPStatus.TOO_MANY_REQUESTS: grpc.StatusCode.RESOURCE_EXHAUSTED,
    HTTPStatus.SERVICE_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    HTTPStatus.INTERNAL_SERVER_ERROR: grpc.StatusCode.INTERNAL,
}
_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_BODY_BYTES),
    # Of two servers on one port the second one is told so.
    ("grpc.so_reuseport", 0),
)


def load_messages() -> dict[str, Any]:
    """The messages of generation.proto by name, of its compiled descriptor."""
    packed = resources.files(__package__).joinpath("generation.binpb").read_bytes()
    (file,) = descriptor_pb2.FileDescriptorSet.FromString(packed).file
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        message.name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{file.package}.{message.name}"))
        for message in file.message_type
    }


_MESSAGES = load_messages()
_INPUTS = ("prompt", "prompt_token_ids", "messages")
_REPEATED = ("prompt_token_ids", "messages", "stop")
# Of the HTTP body, and decided here: a reply carries tokens and counts, and no log-probabilities.
_NOT_EXTRA = ("stream", "stream_options", "return_token_ids", "logprobs", "top_logprobs")


class GrpcServer:
    """Listens once started. Raises ConfigError if it cannot."""

    def __init__(self, intake: Intake, host: str, port: int) -> None:
        self._intake = intake
        self._server = grpc.aio.server(options=_OPTIONS)
        handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_stream_rpc_method_handler(self._generate)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Generate": handler}),))
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            self.port = self._server.add_insecure_port(address)
        except RuntimeError:
            raise ConfigError(f"gRPC cannot listen on {address}; is the port taken?") from None

    async def start(self) -> None:
        await self._server.start()

    async def stop(self, grace_s: float) -> None:
        """Returns when the calls under way have ended, after `grace_s` by force."""
        await self._server.stop(grace_s)

    async def _generate(self, content: bytes, context: Any) -> AsyncIterator[bytes]:
        request_id = _request_id(context)
        await context.send_initial_metadata((("x-request-id", request_id),))
        try:
            body, is_chat = read_request(content)
            with self._intake.answering():
                answer = await (self._intake.chat if is_chat else self._intake.completion)(body, request_id)
                async with aclosing(_replies(answer)) as replies:
                    async for reply in replies:
                        yield reply
        except Exception as error:
            failure = as_api_error(error)
            code = _CODES.get(failure.status, grpc.StatusCode.INVALID_ARGUMENT)
            log_failure(request_id, f"{SERVICE}/Generate", failure, error)
            await context.abort(code, failure.message, tuple(failure.headers.items()))


def _request_id(context: Any) -> str:
    """The client's x-request-id, or one made here, as by HTTP."""
    told = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
    return known_as(told.get("x-request-id"))


def read_request(content: bytes) -> tuple[bytes, bool]:
    """A GenerateRequest as the body that would be POSTed, and whether it is a chat. Raises ApiError."""
    try:
        message = _MESSAGES["GenerateRequest"].FromString(content)
    except DecodeError:
        raise ApiError(HTTPStatus.BAD_REQUEST, "The message is no llmbench.GenerateRequest.") from None
    given = [name for name in _INPUTS if getattr(message, name)]
    if len(given) != 1:
        found = " and ".join(given) or "none"
        raise ApiError(HTTPStatus.BAD_REQUEST, f"Give one of {', '.join(_INPUTS)}; there is {found}.", "prompt")
    body: dict[str, Any] = {"model": message.model, "ignore_eos": message.ignore_eos, "stream": True}
    for field in message.DESCRIPTOR.fields:
        if field.name in _REPEATED or not field.has_presence or not message.HasField(field.name):
            continue
        body[field.name] = getattr(message, field.name)
    if message.stop:
        body["stop"] = list(message.stop)
    is_chat = given == ["messages"]
    if is_chat:
        body["messages"] = [{"role": each.role, "content": each.content} for each in message.messages]
    else:
        body["prompt"] = message.prompt or list(message.prompt_token_ids)
    return json.dumps(body | _read_extra(message.extra_json, message.DESCRIPTOR.fields_by_name)).encode(), is_chat


def _read_extra(extra_json: str, fields: Any) -> dict[str, Any]:
    if not extra_json:
        return {}
    try:
        # As the body of a POST is read: neither too deep nor with half a character in it.
        extra = from_json(extra_json)
    except ValueError as error:
        raise ApiError(HTTPStatus.BAD_REQUEST, f"extra_json is not JSON: {error}.", "extra_json") from None
    if not isinstance(extra, dict):
        raise ApiError(HTTPStatus.BAD_REQUEST, "extra_json must hold a JSON object.", "extra_json")
    for name in extra:
        if name in fields or name in _NOT_EXTRA:
            why = "is a field of GenerateRequest" if name in fields else "is not supported by gRPC"
            raise ApiError(HTTPStatus.BAD_REQUEST, f"The parameter {name!r} of extra_json {why}.", name)
    return extra


async def _replies(answer: Answer) -> AsyncGenerator[bytes, None]:
    usage = answer.usage()
    async with aclosing(merged(answer.generations)) as arriving:
        async for index, delta in arriving:
            usage.note(index, delta)
            yield _reply(index, delta, sum(answer.prompt_lengths))
    answer.log(usage)


def _reply(index: int, delta: Delta, num_prompt_tokens: int) -> bytes:
    reply = _MESSAGES["GenerateReply"](
        index=index,
        text=delta.text,
        token_ids=delta.token_ids,
        finish_reason=delta.finish_reason or "",
        prompt_tokens=num_prompt_tokens,
        completion_tokens=delta.num_output_tokens,
        cached_tokens=delta.num_cached_tokens,
    )
    encoded: bytes = reply.SerializeToString()
    return encoded
