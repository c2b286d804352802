"""Triton's gRPC messages: written as its own client writes them, and read as its server does."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbench.engines import registry
from llmbench.engines.adapter import EngineError
from llmbench.engines.wire import DecodedAnswer, Endpoint, FailureKind, GenerationRequest, Timeline, TokenSource

service = pytest.importorskip("tritonclient.grpc.service_pb2", reason="tritonclient[grpc] is not installed")

HERE = Endpoint("127.0.0.1", 8001)


def triton(schema: object = "vllm"):
    return registry.get("triton", {"schema": schema, "protocol": "grpc"})


def request(**fields: object) -> GenerationRequest:
    return GenerationRequest("r", "m", 4, **{"prompt": "one é"} | fields)


def sent(schema: object = "vllm", **fields: object):
    wire = triton(schema).encode(request(**fields), HERE)
    assert (wire.transport, wire.method) == ("grpc", "/inference.GRPCInferenceService/ModelStreamInfer")
    message = service.ModelInferRequest.FromString(wire.payload)
    assert wire.payload == message.SerializeToString(deterministic=True) or message.ByteSize() == len(wire.payload)
    return message


def response(outputs: dict[str, object], *, final: bool = False) -> bytes:
    """As tritonserver writes it: raw contents, BYTES with their lengths in front."""
    message = service.ModelStreamInferResponse()
    message.infer_response.model_name = "m"
    message.infer_response.parameters["triton_final_response"].bool_param = final
    for name, value in outputs.items():
        datatype = "BYTES" if isinstance(value, str) else "UINT32"
        message.infer_response.outputs.add(name=name, datatype=datatype, shape=[1])
        raw = (
            struct.pack("<I", len(value.encode())) + value.encode() if datatype == "BYTES" else struct.pack("<I", value)
        )
        message.infer_response.raw_output_contents.append(raw)
    return message.SerializeToString()


def decoded(*messages: bytes, schema: object = "vllm", stream: bool = True) -> DecodedAnswer:
    timeline = Timeline(0, chunk_ns=list(range(len(messages))), chunk_bytes=list(messages))
    return triton(schema).decode(request(stream=stream), timeline)


def test_tensors_have_the_types_that_the_client_library_reads() -> None:
    message = sent(seed=7)
    assert (message.model_name, message.id) == ("m", "r")
    assert message.parameters["triton_enable_empty_final_response"].bool_param is True
    found = {tensor.name: (tensor.datatype, list(tensor.shape)) for tensor in message.inputs}
    assert found["text_input"] == found["sampling_parameters"] == ("BYTES", [1])
    assert found["stream"] == found["return_num_output_tokens"] == ("BOOL", [1])
    contents = {tensor.name: tensor.contents for tensor in message.inputs}
    assert contents["text_input"].bytes_contents == ["one é".encode()]
    assert contents["stream"].bool_contents == [True]


def test_tensorrt_llm_has_batched_tensors_and_an_unsigned_seed() -> None:
    message = sent("trtllm", seed=2**63, stop=("a", "b"))
    found = {tensor.name: tensor for tensor in message.inputs}
    assert (found["max_tokens"].datatype, found["max_tokens"].shape, found["max_tokens"].contents.int_contents) == (
        "INT32",
        [1, 1],
        [4],
    )
    assert (found["seed"].datatype, found["seed"].contents.uint64_contents) == ("UINT64", [2**63])
    assert (found["stop_words"].shape, found["stop_words"].contents.bytes_contents) == ([1, 2], [b"a", b"b"])


def test_a_stream_and_its_empty_final_response() -> None:
    token = {"text_output": "a", "finish_reason": "None", "num_output_tokens": 1, "num_input_tokens": 5}
    last = token | {"text_output": "é", "finish_reason": "length"}
    answer = decoded(response(token), response(last), response({}, final=True))
    assert [(event.tokens, event.text) for event in answer.events] == [(1, "a"), (1, "é"), (0, "")]
    assert (answer.prompt_tokens, answer.output_tokens, answer.finish_reason) == (5, 2, "length")
    assert answer.token_source is TokenSource.USAGE_DELTA
    assert answer.failure is None


def test_a_stream_whose_last_token_is_its_final_response() -> None:
    schema = {"like": "vllm", "finish_reason": None, "num_output_tokens": None}
    answer = decoded(response({"text_output": "a"}), response({"text_output": "b"}, final=True), schema=schema)
    assert (answer.text, answer.output_tokens, answer.failure) == ("ab", 2, None)


@pytest.mark.parametrize(
    ("messages", "kind", "part"),
    [
        ([], FailureKind.TRUNCATED, "ended the call without one message"),
        # No tokens at all: a call that ends well.
        ([response({}, final=True)], FailureKind.MALFORMED, "after 1 messages without any answer"),
        ([response({"text_output": "a"})], FailureKind.TRUNCATED, "without its final response, 1 messages in"),
        ([b"\xff\xff"], FailureKind.MALFORMED, "Message 1 of the answer cannot be read"),
        (
            [
                response({"text_output": "a"}),
                service.ModelStreamInferResponse(error_message="asked to fail midway").SerializeToString(),
            ],
            FailureKind.SERVER_ERROR,
            "The server reported an error: asked to fail midway",
        ),
    ],
)
def test_traps_are_failures(messages, kind, part) -> None:
    failure = decoded(*messages).failure
    assert failure is not None
    assert failure.kind is kind
    assert part in failure.message


def test_what_no_tensor_can_hold_is_refused() -> None:
    adapter = registry.get("triton", {"protocol": "grpc", "extra_body": {"x": {"y": 1}}})
    with pytest.raises(EngineError, match="The input x of triton must be a truth value"):
        adapter.encode(request(), HERE)
    with pytest.raises(EngineError, match=r"seed of triton, \[-1\], is no UINT64"):
        sent("trtllm", seed=-1)
    with pytest.raises(EngineError, match="protocol of triton must be http or grpc; got 'GRPC'"):
        registry.get("triton", {"protocol": "GRPC"})


@settings(deadline=None)  # the first example imports the messages
@given(st.lists(st.binary(max_size=40), max_size=3), st.sampled_from(["vllm", "trtllm", "llmapi"]))
def test_bytes_of_any_kind_never_raise(messages: list[bytes], schema: str) -> None:
    decoded(*messages, schema=schema).text.encode()


@settings(deadline=None)  # the first example imports the messages
@given(st.data())
def test_a_real_answer_with_bytes_changed_never_raises(data: st.DataObject) -> None:
    message = bytearray(
        response({"text_output": "one two", "num_output_tokens": 1, "finish_reason": "stop"}, final=True)
    )
    for _ in range(data.draw(st.integers(1, 4))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    decoded(bytes(message)).text.encode()
