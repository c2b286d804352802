"""Triton's ModelStreamInfer: tensors as protobuf messages, one request and its responses to a call.

Fields and numbers are those of the open inference protocol with Triton's extensions (grpc_service.proto).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from llmbench.engines.adapter import EngineError
from llmbench.engines.protobuf import DecodeError, messages
from llmbench.engines.server_message import clean

METHOD = "/inference.GRPCInferenceService/ModelStreamInfer"

# What a server writes is read as bytes: text that is no UTF-8 is then our failure to report, not the parser's.
_MESSAGES = messages(
    "inference",
    {
        "Contents": {
            "bool_contents": (1, ["bool"]),
            "int_contents": (2, ["int32"]),
            "int64_contents": (3, ["int64"]),
            "uint_contents": (4, ["uint32"]),
            "uint64_contents": (5, ["uint64"]),
            "fp32_contents": (6, ["float"]),
            "fp64_contents": (7, ["double"]),
            "bytes_contents": (8, ["bytes"]),
        },
        "Parameter": {
            "bool_param": (1, "bool"),
            "int64_param": (2, "int64"),
            "string_param": (3, "string"),
            "double_param": (4, "double"),
        },
        "ParametersEntry": {"key": (1, "bytes"), "value": (2, "Parameter")},
        "Tensor": {
            "name": (1, "bytes"),
            "datatype": (2, "bytes"),
            "shape": (3, ["int64"]),
            "contents": (5, "Contents"),
        },
        "Request": {
            "model_name": (1, "string"),
            "id": (3, "string"),
            "parameters": (4, ["ParametersEntry"]),
            "inputs": (5, ["Tensor"]),
        },
        "Response": {
            "parameters": (4, ["ParametersEntry"]),
            "outputs": (5, ["Tensor"]),
            "raw_output_contents": (6, ["bytes"]),
        },
        "StreamResponse": {"error_message": (1, "bytes"), "infer_response": (2, "Response")},
    },
)

_CONTENTS = {
    "BOOL": "bool_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
_NUMPY = {"BOOL": "?", "INT32": "<i4", "INT64": "<i8", "UINT32": "<u4", "UINT64": "<u8", "FP32": "<f4", "FP64": "<f8"}
_PARAMETERS = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}
_LENGTH = struct.Struct("<I")

# Every response says whether it is the last; without the first of these, a last one that is empty is not sent at all.
_ASK_FOR_FINAL = "triton_enable_empty_final_response"
_IS_FINAL = b"triton_final_response"


def encode_request(
    model: str, request_id: str, inputs: Mapping[str, Any], datatypes: Mapping[str, str], *, batched: bool
) -> bytes:
    """A ModelInferRequest with `inputs` (a scalar or a list each) as tensors of shape [n], or [1, n] if `batched`.

    An input's type follows from its value unless `datatypes` names it; `parameters` among the inputs become the
    request's parameters. Raises EngineError for a value that no tensor can hold.
    """
    message = _MESSAGES["Request"](model_name=model, id=request_id)
    parameters = inputs.get("parameters", {})
    if not isinstance(parameters, Mapping):
        raise EngineError(f"extra_body.parameters of triton must map names to values; got {parameters!r}.")
    for name, value in {_ASK_FOR_FINAL: True, **parameters}.items():
        field = _PARAMETERS.get(type(value))
        if field is None:
            raise EngineError(f"The parameter {name} must be a truth value, a number or a text; got {value!r}.")
        message.parameters.add(key=name.encode(), value=_MESSAGES["Parameter"](**{field: value}))
    for name, value in inputs.items():
        if name != "parameters":
            _add_tensor(message, name, value if isinstance(value, list) else [value], datatypes.get(name), batched)
    encoded: bytes = message.SerializeToString()
    return encoded


def decode_response(data: bytes) -> tuple[dict[str, Any], bool]:
    """(outputs by name, whether it is the request's last response); {"error": …} for an error that the server sent.

    Raises ValueError for what is no ModelStreamInferResponse.
    """
    try:
        message = _MESSAGES["StreamResponse"].FromString(data)
    except DecodeError as error:
        raise ValueError(str(error)) from None
    if message.error_message:
        return {"error": message.error_message.decode(errors="replace")}, True
    response = message.infer_response
    is_final = any(entry.key == _IS_FINAL and entry.value.bool_param for entry in response.parameters)
    raw = list(response.raw_output_contents)
    outputs: dict[str, Any] = {}
    for index, tensor in enumerate(response.outputs):
        datatype = tensor.datatype.decode(errors="replace")
        if datatype not in _CONTENTS:
            continue  # no text and no count is of such a type
        name = tensor.name.decode(errors="replace")
        if index < len(raw):
            outputs[name] = _raw_values(raw[index], datatype)
        else:
            outputs[name] = [_plain(value) for value in getattr(tensor.contents, _CONTENTS[datatype])]
    return outputs, is_final


def _add_tensor(message: Any, name: str, values: list[Any], datatype: str | None, batched: bool) -> None:
    datatype = datatype or _datatype(name, values)
    shape = [1, len(values)] if batched else [len(values)]
    tensor = message.inputs.add(name=name.encode(), datatype=datatype.encode(), shape=shape)
    contents = getattr(tensor.contents, _CONTENTS[datatype])
    try:
        contents.extend([value.encode() if isinstance(value, str) else value for value in values])
    except (TypeError, ValueError) as error:
        raise EngineError(f"The input {name} of triton, {values!r}, is no {datatype}: {clean(str(error))}.") from None


def _datatype(name: str, values: list[Any]) -> str:
    kinds = {type(value) for value in values}
    for kind, datatype in ((bool, "BOOL"), (str, "BYTES"), (int, "INT32"), (float, "FP32")):
        if kinds == {kind}:
            return datatype
    raise EngineError(
        f"The input {name} of triton must be a truth value, a number, a text or a list of one of them; got {values!r}."
    )


def _raw_values(data: bytes, datatype: str) -> list[Any]:
    if datatype != "BYTES":
        if len(data) % np.dtype(_NUMPY[datatype]).itemsize:
            raise ValueError(f"{len(data)} bytes are no tensor of {datatype}")
        found: list[Any] = np.frombuffer(data, _NUMPY[datatype]).tolist()
        return found
    texts, place = [], 0
    while place < len(data):
        if place + _LENGTH.size > len(data):
            raise ValueError("a tensor of BYTES ends within a length")
        (length,) = _LENGTH.unpack_from(data, place)
        place += _LENGTH.size
        if place + length > len(data):
            raise ValueError("a tensor of BYTES ends within a text")
        texts.append(_plain(data[place : place + length]))
        place += length
    return texts


def _plain(value: Any) -> Any:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
