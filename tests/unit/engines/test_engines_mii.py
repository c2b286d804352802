"""DeepSpeed-MII as its gateway and its OpenAI server really answered."""

import json

import pytest

from llmbench.engines import registry
from llmbench.engines.adapter import EngineError
from llmbench.engines.wire import ChatMessage, Endpoint, FailureKind, GenerationRequest, TokenSource

HERE = Endpoint("127.0.0.1", 51080)
MII = registry.get("mii-rest")


def sent(**fields: object) -> dict[str, object]:
    request = GenerationRequest("r", "tiny", 4, **{"prompt": "x", "stream": False} | fields)
    return json.loads(MII.encode(request, HERE).payload.partition(b"\r\n\r\n")[2])


def test_a_captured_answer(capture, whole) -> None:
    answer = MII.decode(whole, capture("mii/rest_generate_single"))
    assert (answer.text, answer.output_tokens, answer.prompt_tokens) == (" DIRECT dependenciesandIn", 4, 7)
    assert (answer.finish_reason, answer.token_source) == ("length", TokenSource.SERVER_COUNT)
    assert answer.failure is None


@pytest.mark.parametrize(
    ("name", "part"),
    [("rest_bad_param", "HTTP 500: Internal Server Error"), ("rest_unknown_dep", "HTTP 404: <!doctype html>")],
)
def test_captured_refusals_are_quoted(capture, whole, name, part) -> None:
    failure = MII.decode(whole, capture(f"mii/{name}")).failure
    assert failure is not None
    assert failure.kind is FailureKind.HTTP_STATUS
    assert failure.message.startswith(part)


@pytest.mark.parametrize("body", [b"[]", b"[1]", b"[{},{}]", b"{}", b"[[]]", b'[{"generated_text": 3}]'])
def test_lists_of_anything_else_are_no_answer(timeline, whole, body) -> None:
    failure = MII.decode(whole, timeline(body, content_type="application/json")).failure
    assert failure is not None
    assert failure.kind is FailureKind.MALFORMED


def test_a_gateway_that_cannot_stream_is_never_asked_to(capture, streamed) -> None:
    """It would answer with the first token alone."""
    assert sent(stream=True) == sent(stream=False)
    answer = MII.decode(streamed, capture("mii/rest_generate_single"))
    assert (answer.failure, len(answer.events)) == (None, 1)


def test_greedy_is_said_by_not_sampling() -> None:
    assert sent() == {
        "prompts": ["x"],
        "max_new_tokens": 4,
        "ignore_eos": True,
        "return_full_text": False,
        "do_sample": False,
        "top_p": 1.0,
    }
    sampled = {"do_sample": True, "temperature": 0.5, "top_k": 3, "stop": "a"}
    assert sent(temperature=0.5, top_k=3, stop=("a",)).items() >= sampled.items()


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"stop": ("a", "b")}, "one stop text"),
        ({"seed": 1}, "no seed"),
        ({"prompt": None, "messages": (ChatMessage("user", "x"),)}, "no chats"),
    ],
)
def test_requests_that_the_gateway_cannot_take(fields, part) -> None:
    with pytest.raises(EngineError, match=part):
        sent(**fields)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("openai_completions_stream", [(1, " sequence"), (1, "Infer"), (1, " object"), (1, "ater"), (0, ""), (0, "")]),
        ("openai_chat_stream", [(0, ""), (1, "cess"), (1, " L"), (1, "pos"), (1, " access"), (0, ""), (0, "")]),
    ],
)
def test_its_openai_server_counts_nothing_so_chunks_are_taken_for_tokens(capture, streamed, name, expected) -> None:
    answer = registry.get("openai").decode(streamed, capture(f"mii/{name}"))
    assert [(event.tokens, event.text) for event in answer.events] == expected
    assert (answer.token_source, answer.failure) == (TokenSource.ASSUMED_ONE, None)


def test_its_openai_servers_refusal_is_quoted(capture, streamed) -> None:
    failure = registry.get("openai").decode(streamed, capture("mii/openai_bad_model")).failure
    assert failure is not None
    assert failure.message == "HTTP 400: Model nope not found."
