"""DeepSpeed-MII's gRPC messages. Fields and numbers are those of its modelresponse.proto (deepspeed-mii 0.3.3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmbench.engines.protobuf import DecodeError, messages

# Text is read as bytes: what is no UTF-8 is then replaced and not refused by the parser.
_MESSAGES = messages(
    "modelresponse",
    {
        "Value": {"svalue": (1, "string"), "ivalue": (2, "int64"), "fvalue": (3, "float"), "bvalue": (4, "bool")},
        "ValueEntry": {"key": (1, "string"), "value": (2, "Value")},
        "MultiStringRequest": {"request": (1, ["string"]), "query_kwargs": (2, ["ValueEntry"])},
        "SingleGenerationReply": {
            "response": (1, "bytes"),
            "finish_reason": (2, "bytes"),
            "prompt_tokens": (3, "int64"),
            "generated_tokens": (4, "int64"),
        },
        "MultiGenerationReply": {"response": (1, ["SingleGenerationReply"])},
    },
)
_FIELDS = {bool: "bvalue", int: "ivalue", float: "fvalue", str: "svalue"}


def encode_request(prompt: str, arguments: Mapping[str, object]) -> bytes:
    """A MultiStringRequest of one prompt. Raises TypeError for an argument that is no scalar."""
    message = _MESSAGES["MultiStringRequest"](request=[prompt])
    for name, value in arguments.items():
        field = _FIELDS.get(type(value))
        if field is None:
            raise TypeError(f"the argument {name} must be a truth value, a number or a text, and is {value!r}")
        message.query_kwargs.add(key=name, value=_MESSAGES["Value"](**{field: value}))
    encoded: bytes = message.SerializeToString()
    return encoded


def decode_replies(data: bytes) -> list[dict[str, Any]]:
    """The fields of each reply in a MultiGenerationReply. Raises ValueError for what is none."""
    try:
        message = _MESSAGES["MultiGenerationReply"].FromString(data)
    except DecodeError as error:
        raise ValueError(str(error)) from None
    return [
        {
            "response": reply.response.decode(errors="replace"),
            "finish_reason": reply.finish_reason.decode(errors="replace"),
            "prompt_tokens": reply.prompt_tokens,
            "generated_tokens": reply.generated_tokens,
        }
        for reply in message.response
    ]
