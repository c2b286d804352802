"""TGI's own routes, as its router's sources and its OpenAPI document describe them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbench.engines import registry
from llmbench.engines.adapter import EngineError
from llmbench.engines.wire import (
    ChatMessage,
    Endpoint,
    Failure,
    FailureKind,
    GenerationRequest,
    Timeline,
    TokenSource,
)

HERE = Endpoint("127.0.0.1", 8080)
TGI = registry.get("tgi")


def event(index: int, text: str, *, special: bool = False, final: tuple[str, str] | None = None) -> bytes:
    body = {
        "index": index,
        "token": {"id": index, "text": text, "logprob": -0.5, "special": special},
        "generated_text": final[0] if final else None,
        "details": {"finish_reason": final[1], "generated_tokens": index, "input_length": 5} if final else None,
    }
    # No space after the colon: axum 0.6 writes none.
    return b"data:" + json.dumps(body).encode() + b"\n\n"


def sent(**fields: object) -> tuple[bytes, dict[str, object]]:
    head, _, body = TGI.encode(GenerationRequest("r", "m", 4, **{"prompt": "x"} | fields), HERE).payload.partition(
        b"\r\n\r\n"
    )
    return head.split()[1], json.loads(body)


def test_a_stream_counts_a_token_per_event_and_the_end_token_without_text(timeline, streamed) -> None:
    reads = [
        event(1, " a"),
        b":\n\n",
        event(2, " b") + event(3, " c"),
        event(4, "</s>", special=True, final=(" a b c", "eos_token")),
    ]
    answer = TGI.decode(streamed, timeline(reads))
    assert [(event.tokens, event.text) for event in answer.events] == [(1, " a"), (0, ""), (2, " b c"), (1, "")]
    assert (answer.output_tokens, answer.prompt_tokens, answer.token_ids) == (4, 5, (1, 2, 3, 4))
    assert (answer.finish_reason, answer.token_source, answer.failure) == ("eos_token", TokenSource.TOKEN_IDS, None)


def test_an_answer_in_one_piece(timeline, whole) -> None:
    tokens = [{"id": 1, "text": " a", "logprob": -1, "special": False}] * 3
    body = {
        "generated_text": " a a a",
        "details": {"finish_reason": "length", "generated_tokens": 3, "prefill": [], "tokens": tokens},
    }
    answer = TGI.decode(whole, timeline(json.dumps(body).encode(), 200, "application/json", x_prompt_tokens="7"))
    assert (answer.text, answer.output_tokens, answer.prompt_tokens) == (" a a a", 3, 7)
    assert (answer.finish_reason, answer.failure) == ("length", None)


def test_an_answer_in_one_piece_without_its_tokens_has_the_routers_count(timeline, whole) -> None:
    body = {"generated_text": " a", "details": {"finish_reason": "length", "generated_tokens": 2}}
    answer = TGI.decode(whole, timeline(json.dumps(body).encode(), 200, "application/json"))
    assert (answer.output_tokens, answer.token_source) == (2, TokenSource.SERVER_COUNT)


def test_a_cut_that_every_client_overlooks_is_a_failure(timeline, streamed) -> None:
    answer = TGI.decode(streamed, timeline([event(1, " a"), event(2, " b")]))
    assert answer.output_tokens == 2
    assert answer.failure is not None
    assert answer.failure.kind is FailureKind.TRUNCATED
    assert "generated_text, 2 events in" in answer.failure.message


@pytest.mark.parametrize(
    ("error_type", "kind"),
    [("overloaded", FailureKind.RATE_LIMITED), ("generation", FailureKind.SERVER_ERROR)],
)
def test_errors_under_http_200(timeline, streamed, error_type, kind) -> None:
    body = f'data:{{"error":"Model is overloaded","error_type":"{error_type}"}}\n\n'.encode()
    failure = TGI.decode(streamed, timeline(body)).failure
    assert failure == Failure(kind, "The server reported an error under HTTP 200: Model is overloaded")


def test_overload_in_one_piece_is_the_same_kind(timeline, whole) -> None:
    body = b'{"error":"Model is overloaded","error_type":"overloaded"}'
    failure = TGI.decode(whole, timeline(body, 429, "application/json")).failure
    assert failure is not None
    assert failure.kind is FailureKind.RATE_LIMITED


def test_a_greedy_request_leaves_out_what_the_router_refuses() -> None:
    target, body = sent()
    assert target == b"/generate_stream"
    assert body == {
        "inputs": "x",
        "parameters": {"max_new_tokens": 4, "details": True, "return_full_text": False, "do_sample": False},
    }


def test_a_sampled_request_in_one_piece() -> None:
    target, body = sent(stream=False, temperature=0.7, top_p=0.9, top_k=3, seed=5, stop=("a",))
    assert target == b"/generate"
    expected = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 3, "seed": 5, "stop": ["a"]}
    assert body["parameters"].items() >= expected.items()


def test_requests_that_the_router_cannot_take() -> None:
    with pytest.raises(EngineError, match="ask the engine tgi-openai"):
        sent(prompt=None, messages=(ChatMessage("user", "x"),))
    with pytest.raises(EngineError, match=r"at most 4 stop texts; request\.stop has 5"):
        sent(stop=("a", "b", "c", "d", "e"))
    with pytest.raises(EngineError, match=r"no setting 'parameter'.*did you mean parameters\?"):
        registry.get("tgi", {"parameter": {}})


def test_settings_change_the_parameters() -> None:
    adapter = registry.get("tgi", {"parameters": {"watermark": True, "details": None}})
    body = json.loads(
        adapter.encode(GenerationRequest("r", "m", 4, prompt="x"), HERE).payload.partition(b"\r\n\r\n")[2]
    )
    assert body["parameters"]["watermark"] is True
    assert "details" not in body["parameters"]


scalars = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
names = st.sampled_from(["token", "details", "generated_text", "text", "special", "tokens", "finish_reason", "error"])
bodies = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner), max_leaves=8)


@given(st.lists(bodies, max_size=4), st.booleans())
def test_json_of_any_shape_never_raises(found: list[object], stream: bool) -> None:
    reads = [b"data:" + json.dumps(body).encode() + b"\n\n" for body in found]
    answer = TGI.decode(
        GenerationRequest("r", "m", 4, prompt="x", stream=stream),
        Timeline(
            0, status=200, headers=[("x-prompt-tokens", "x")], chunk_ns=list(range(len(reads))), chunk_bytes=reads
        ),
    )
    assert sum(event.tokens for event in answer.events) == (answer.output_tokens or 0)
