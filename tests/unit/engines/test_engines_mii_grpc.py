"""DeepSpeed-MII's gRPC messages, against bytes that its own modelresponse_pb2 (0.3.3) wrote and read."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbench.engines import registry
from llmbench.engines.adapter import EngineError
from llmbench.engines.wire import (
    ChatMessage,
    DecodedAnswer,
    Endpoint,
    Failure,
    FailureKind,
    GenerationRequest,
    Timeline,
    TokenSource,
)

pytest.importorskip("grpc", reason="the extra llmbench[grpc] is not installed")

HERE = Endpoint("127.0.0.1", 50050)

# A stream of two tokens and its empty end: response, finish_reason, prompt_tokens, generated_tokens, two times of -1.
TIMES = b"-\x00\x00\x80\xbf5\x00\x00\x80\xbf"
FIRST = b"\n\x17\n\x01N\x12\x04none\x18\x03 \x01" + TIMES
SECOND = b"\n\x1f\n\tInference\x12\x04none\x18\x03 \x02" + TIMES
END = b"\n\x16\x12\x06length\x18\x03 \x02" + TIMES
# What its own client sends for `é`, four tokens, sampled at temperature 0.5 up to the text `a`.
REQUEST = (
    b"\n\x02\xc3\xa9\x12\x14\n\x0emax_new_tokens\x12\x02\x10\x04\x12\x10\n\nignore_eos\x12\x02 \x01"
    b"\x12\x16\n\x10return_full_text\x12\x02 \x00\x12\x0f\n\tdo_sample\x12\x02 \x01"
    b"\x12\x14\n\x0btemperature\x12\x05\x1d\x00\x00\x00?\x12\x0e\n\x05top_p\x12\x05\x1d\x00\x00\x80?"
    b"\x12\x0b\n\x04stop\x12\x03\n\x01a\x12\x0c\n\x06stream\x12\x02 \x01"
)


def request(**fields: object) -> GenerationRequest:
    return GenerationRequest("r", "m", 4, **{"prompt": "x"} | fields)


def decoded(*messages: bytes, stream: bool = True, failure: Failure | None = None) -> DecodedAnswer:
    timeline = Timeline(0, chunk_ns=list(range(len(messages))), chunk_bytes=list(messages), failure=failure)
    return registry.get("mii").decode(request(stream=stream), timeline)


def test_a_stream_is_a_message_per_token_and_an_empty_end() -> None:
    answer = decoded(FIRST, SECOND, END)
    assert [(event.tokens, event.text) for event in answer.events] == [(1, "N"), (1, "Inference"), (0, "")]
    assert (answer.prompt_tokens, answer.output_tokens, answer.finish_reason) == (3, 2, "length")
    assert answer.token_source is TokenSource.USAGE_DELTA
    assert answer.failure is None


def test_an_answer_in_one_piece() -> None:
    answer = decoded(b"\n\x17\n\x01N\x12\x04stop\x18\x03 \x02" + TIMES, stream=False)
    assert (answer.text, answer.output_tokens, answer.token_source) == ("N", 2, TokenSource.SERVER_COUNT)
    assert (answer.finish_reason, answer.failure) == ("stop", None)


@pytest.mark.parametrize(
    ("messages", "kind", "part"),
    [
        ((), FailureKind.TRUNCATED, "without one message"),
        # The load balancer swallows errors: a stream may end at any place.
        ((FIRST, SECOND), FailureKind.TRUNCATED, "without a finish_reason, 2 messages in"),
        ((FIRST, SECOND[:-3]), FailureKind.MALFORMED, "Message 2 of the answer cannot be read"),
    ],
)
def test_what_is_no_whole_answer(messages, kind, part) -> None:
    failure = decoded(*messages).failure
    assert failure is not None
    assert failure.kind is kind
    assert part in failure.message


def test_what_the_transport_saw_is_not_explained_away() -> None:
    seen = Failure(FailureKind.TOTAL_TIMEOUT, "Not complete 8 s after it was sent.")
    answer = decoded(FIRST, failure=seen)
    assert (answer.text, answer.failure) == ("N", seen)


def test_a_request_is_what_its_own_client_sends() -> None:
    wire = registry.get("mii").encode(request(prompt="é", stop=("a",), temperature=0.5), HERE)
    assert (wire.transport, wire.method) == ("grpc", "/modelresponse.ModelResponse/GeneratorReplyStream")
    assert not wire.may_cancel
    assert wire.payload == REQUEST


def test_greedy_is_said_by_not_sampling_and_one_piece_by_another_method() -> None:
    wire = registry.get("mii").encode(request(stream=False), HERE)
    assert wire.method == "/modelresponse.ModelResponse/GeneratorReply"
    assert b"temperature" not in wire.payload
    assert b"\n\tdo_sample\x12\x02 \x00" in wire.payload
    assert b"\n\x06stream\x12\x02 \x00" in wire.payload


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"prompt": None, "messages": (ChatMessage("user", "x"),)}, "mii takes prompts and no chats"),
        ({"stop": ("a", "b")}, "mii takes one stop text; request.stop has 2"),
        ({"seed": 3}, "mii takes no seed"),
    ],
)
def test_requests_that_mii_cannot_take(fields, part) -> None:
    with pytest.raises(EngineError, match=part):
        registry.get("mii").encode(request(**fields), HERE)


def test_an_argument_that_no_message_can_hold() -> None:
    adapter = registry.get("mii", {"extra_body": {"stop": ["a"]}})
    with pytest.raises(EngineError, match="the argument stop must be a truth value, a number or a text"):
        adapter.encode(request(), HERE)


def test_a_grpc_url_is_an_endpoint() -> None:
    assert registry.url_endpoint("grpc://10.0.0.6:50050") == Endpoint("10.0.0.6", 50050)
    assert registry.url_endpoint("grpcs://host:1").tls


@settings(deadline=None)  # the first example imports the messages
@given(st.lists(st.binary(max_size=40), max_size=3), st.booleans())
def test_bytes_of_any_kind_never_raise(messages: list[bytes], stream: bool) -> None:
    decoded(*messages, stream=stream).text.encode()
