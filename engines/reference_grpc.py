"""The bundled engine's own gRPC: messages and numbers are those of its generation.proto."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from llmbench.engines.adapter import EngineError
from llmbench.engines.answer import Answer, count, whole_text
from llmbench.engines.protobuf import DecodeError, messages
from llmbench.engines.token_counts import Delta
from llmbench.engines.wire import GenerationRequest

METHOD = "/llmbench.Generation/Generate"

# Text of an answer is read as bytes: what is no UTF-8 is then our failure to report, not the parser's.
_MESSAGES = messages(
    "llmbench",
    {
        "Message": {"role": (1, "string"), "content": (2, "string")},
        "GenerateRequest": {
            "model": (1, "string"),
            "prompt": (2, "string"),
            "messages": (4, ["Message"]),
            "max_tokens": (5, "uint32"),
            "temperature": (6, "double"),
            "top_p": (7, "double"),
            "top_k": (8, "int32"),
            "seed": (9, "int64"),
            "stop": (10, ["string"]),
            "ignore_eos": (11, "bool"),
            "extra_json": (13, "string"),
        },
        "GenerateReply": {
            "text": (2, "bytes"),
            "token_ids": (3, ["uint32"]),
            "finish_reason": (4, "bytes"),
            "prompt_tokens": (5, "uint32"),
            "completion_tokens": (6, "uint32"),
        },
    },
)


def encode_request(request: GenerationRequest, extra_body: Mapping[str, Any]) -> bytes:
    """A GenerateRequest. Raises EngineError for a value that its field cannot hold."""
    values: dict[str, Any] = {
        "model": request.model,
        "prompt": request.prompt,
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k,
        "seed": request.seed,
        "stop": list(request.stop),
        "ignore_eos": request.ignore_eos,
        "extra_json": json.dumps(dict(extra_body)) if extra_body else None,
    }
    try:
        message = _MESSAGES["GenerateRequest"](**{name: value for name, value in values.items() if value is not None})
        for each in request.messages or ():
            message.messages.add(role=each.role, content=each.content)
        encoded: bytes = message.SerializeToString()
    except (TypeError, ValueError) as error:
        raise EngineError(f"Request {request.request_id} cannot be written for reference by gRPC: {error}.") from None
    return encoded


class CallAnswer(Answer):
    """Replies of one call: the text and tokens of a step each."""

    def missing_end(self) -> str | None:
        return None if self.finish_reason is not None else "a finish_reason"

    def take_message(self, data: bytes, chunk: int) -> None:
        """Raises ValueError for what is no GenerateReply."""
        try:
            reply = _MESSAGES["GenerateReply"].FromString(data)
        except DecodeError as error:
            raise ValueError(str(error)) from None
        body = {
            "text": reply.text.decode(errors="replace"),
            "finish_reason": reply.finish_reason.decode(errors="replace"),
            "token_ids": list(reply.token_ids),
            "prompt_tokens": reply.prompt_tokens,
            "completion_tokens": reply.completion_tokens,
        }
        self.take(body, chunk)

    def take(self, body: dict[str, Any], chunk: int) -> None:
        self.has_answer = True
        self.prompt_tokens, self.output_tokens = count(body["prompt_tokens"]), count(body["completion_tokens"])
        finishes = self.finish(body["finish_reason"])
        self.deltas.append(Delta(chunk, whole_text(body["text"]), finishes=finishes, token_ids=body["token_ids"]))
