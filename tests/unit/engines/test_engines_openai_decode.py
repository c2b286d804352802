"""What servers really sent, and what they could send, becomes the right events or the right failure."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbench.engines.openai import OpenAIAdapter
from llmbench.engines.wire import DecodedAnswer, Failure, FailureKind, GenerationRequest, Timeline, TokenSource

ADAPTER = OpenAIAdapter()
CAPTURED = ["chat_stream_usage", "completions_stream_contusage", "completions_stream_tokenids", "stream_bytes"]


def sse(*bodies: object, done: bool = True) -> bytes:
    events = [b"data: " + json.dumps(body).encode() + b"\n\n" for body in bodies]
    return b"".join(events) + (b"data: [DONE]\n\n" if done else b"")


def text(content: str, finish_reason: str | None = None, **more: object) -> dict[str, object]:
    return {"choices": [{"index": 0, "text": content, "finish_reason": finish_reason, **more}]}


def delta(finish_reason: str | None = None, **fields: object) -> dict[str, object]:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": finish_reason}]}


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, object]:
    return {"choices": [], "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}}


def tokens(answer: DecodedAnswer) -> list[int]:
    return [event.tokens for event in answer.events]


def texts(answer: DecodedAnswer) -> list[str]:
    return [event.text for event in answer.events]


# Captured answers, one server event per read.


@pytest.mark.parametrize(
    ("name", "source", "expected"),
    [
        (
            "vllm/completions_stream_usage",
            TokenSource.SERVER_COUNT,
            [(1, "0043"), (1, " INF"), (1, " INF"), (1, "hours"), (1, "hours"), (1, " INF"), (0, ""), (0, "")],
        ),
        (
            "vllm/completions_stream_contusage",
            TokenSource.USAGE_DELTA,
            [(1, "0043"), (1, " INF"), (1, " INF"), (1, "hours"), (1, "hours"), (1, " INF"), (0, ""), (0, "")],
        ),
        (
            "vllm/completions_stream_plain",
            TokenSource.ASSUMED_ONE,
            [(1, "0043"), (1, " INF"), (1, " INF"), (1, "hours"), (1, "hours"), (1, " INF"), (0, "")],
        ),
        (
            "vllm/completions_stream_tokenids",
            TokenSource.TOKEN_IDS,
            [(1, "location"), (2, "locationlocation"), (0, "")],
        ),
        # The first chunk names the role and holds no token.
        (
            "vllm/chat_stream_usage",
            TokenSource.SERVER_COUNT,
            [(0, ""), (1, "ystem"), (1, "ystem"), (1, "ystem"), (1, "ystem"), (0, ""), (0, "")],
        ),
        # Three tokens in two chunks: the server's sum, shared out along the text.
        (
            "vllm/perreq_metrics_stream",
            TokenSource.SERVER_COUNT,
            [(1, "0043"), (2, " INF INF"), (0, ""), (0, "")],
        ),
        # Tokens that are half a character have no text of their own, and are tokens all the same.
        (
            "vllm/stream_bytes",
            TokenSource.TOKEN_IDS,
            [(1, ""), (1, ""), (1, "你"), (1, ""), (1, ""), (1, ""), (0, ""), (0, "")],
        ),
        (
            "vllm/stream_leadbyte",
            TokenSource.TOKEN_IDS,
            [(1, ""), (1, ""), (1, ""), (1, ""), (1, ""), (1, ""), (0, ""), (0, "")],
        ),
    ],
)
def test_captured_streams_give_their_exact_events(capture, streamed, name, source, expected) -> None:
    answer = ADAPTER.decode(streamed, capture(name))
    assert [(event.tokens, event.text) for event in answer.events] == expected
    assert answer.token_source is source
    assert answer.output_tokens == sum(count for count, _ in expected)
    assert answer.finish_reason == "length"
    assert answer.failure is None


@pytest.mark.parametrize(
    ("name", "ids"),
    [
        ("vllm/completions_stream_tokenids", (6071, 6071, 6071)),
        ("vllm/completions_stream_contusage", None),
    ],
)
def test_ids_of_tokens_are_those_that_the_server_told(capture, streamed, name, ids) -> None:
    assert ADAPTER.decode(streamed, capture(name)).token_ids == ids


def test_ids_that_are_none_are_not_told_as_such(timeline, streamed) -> None:
    events = [{"choices": [{"text": "a", "token_ids": ["7"]}]}, {"choices": [{"text": "", "finish_reason": "length"}]}]
    reads = [f"data: {json.dumps(event)}\n\n".encode() for event in events]
    answer = ADAPTER.decode(streamed, timeline([*reads, b"data: [DONE]\n\n"]))
    assert (answer.token_ids, answer.token_source) == (None, TokenSource.ASSUMED_ONE)


def test_a_captured_answer_in_one_piece(capture, whole) -> None:
    answer = ADAPTER.decode(whole, capture("vllm/completions_nostream"))
    assert (answer.text, answer.output_tokens, answer.prompt_tokens) == ("0043 INF INFhourshours INF", 6, 5)
    assert (answer.token_source, answer.failure) == (TokenSource.SERVER_COUNT, None)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "vllm/err_badparam",
            "HTTP 400: max_tokens must be at least 1, got -4. (parameter=max_tokens, value=-4)",
        ),
        ("vllm/err_model", "HTTP 404: The model `nosuch` does not exist. Valid aliases: tiny20m."),
    ],
)
def test_captured_refusals_are_quoted(capture, streamed, name, message) -> None:
    assert ADAPTER.decode(streamed, capture(name)).failure == Failure(FailureKind.HTTP_STATUS, message)


# Where token counts come from.


def test_continuous_usage_counts_tokens_without_text_and_several_at_once(timeline, streamed) -> None:
    reads = [
        sse(text(content) | usage(4, so_far) | {"choices": text(content)["choices"]}, done=False)
        for content, so_far in [("a", 1), ("", 2), ("bcd", 5)]
    ]
    answer = ADAPTER.decode(streamed, timeline([*reads, sse(usage(4, 5))]))
    assert (tokens(answer), answer.token_source) == ([1, 1, 3, 0], TokenSource.USAGE_DELTA)


def test_a_final_usage_on_the_last_chunk_is_no_continuous_usage(timeline, streamed) -> None:
    last = text("b", "length") | {"usage": {"prompt_tokens": 1, "completion_tokens": 2}}
    answer = ADAPTER.decode(streamed, timeline([sse(text("a"), done=False), sse(last)]))
    assert (tokens(answer), answer.token_source) == ([1, 1], TokenSource.SERVER_COUNT)


def test_the_final_total_repeated_in_every_chunk_is_no_continuous_usage(timeline, streamed) -> None:
    chunks = [text(letter) | {"usage": {"prompt_tokens": 1, "completion_tokens": 3}} for letter in "abc"]
    answer = ADAPTER.decode(streamed, timeline([sse(chunk, done=False) for chunk in chunks] + [sse()]))
    assert (tokens(answer), answer.token_source) == ([1, 1, 1, 0], TokenSource.SERVER_COUNT)


def test_logprobs_count_tokens_in_completions_and_in_chat(timeline, streamed) -> None:
    completions = sse(text("ab", logprobs={"tokens": ["a", "b"]}), text("c", "stop", logprobs={"tokens": ["c"]}))
    chat = {"choices": [{"delta": {"content": "ab"}, "logprobs": {"content": [{"token": "a"}, {"token": "b"}]}}]}
    for body, expected in ((completions, 3), (sse(chat), 2)):
        answer = ADAPTER.decode(streamed, timeline(body))
        assert (answer.output_tokens, answer.token_source) == (expected, TokenSource.LOGPROBS)


def test_logprobs_that_contradict_the_servers_total_give_way_to_it(timeline, streamed) -> None:
    answer = ADAPTER.decode(streamed, timeline(sse(text("ab", "stop", logprobs={"tokens": ["ab"]}), usage(1, 2))))
    assert (answer.output_tokens, answer.token_source) == (2, TokenSource.SERVER_COUNT)


def test_without_any_count_text_is_counted_again(timeline, streamed) -> None:
    reads = [sse(text(" one two"), done=False), sse(text(" three", "length"))]
    answer = ADAPTER.decode(streamed, timeline(reads), count_tokens=lambda words: len(words.split()))
    assert (tokens(answer), answer.token_source) == ([2, 1], TokenSource.RETOKENISED)


def test_an_answer_in_one_piece_without_any_count_has_an_unknown_length(timeline, whole) -> None:
    body = json.dumps(text("one two three", "stop")).encode()
    answer = ADAPTER.decode(whole, timeline(body, content_type="application/json"))
    assert (answer.output_tokens, answer.token_source, answer.failure) == (None, None, None)


def test_an_empty_finish_chunk_is_a_token_only_if_the_total_says_so(timeline, streamed) -> None:
    body = [sse(text("a"), done=False), sse(text("b"), done=False), sse(text("", "stop"), done=False)]
    assert tokens(ADAPTER.decode(streamed, timeline([*body, sse(usage(1, 2))]))) == [1, 1, 0, 0]
    assert tokens(ADAPTER.decode(streamed, timeline([*body, sse(usage(1, 3))]))) == [1, 1, 1, 0]


def test_reasoning_and_tool_calls_are_generated_content(timeline, streamed) -> None:
    call = [{"index": 0, "function": {"name": "f", "arguments": "{}"}}]
    chunks = [
        delta(role="assistant", content=""),
        delta(reasoning_content="hm"),
        delta(reasoning="m"),
        delta(content="Yes"),
        delta("tool_calls", tool_calls=call),
    ]
    answer = ADAPTER.decode(streamed, timeline([sse(chunk, done=False) for chunk in chunks] + [sse(usage(3, 4))]))
    assert texts(answer) == ["", "hm", "m", "Yes", "f{}", ""]
    assert tokens(answer) == [0, 1, 1, 1, 1, 0]


def test_an_answer_of_no_tokens_is_an_answer(timeline, streamed) -> None:
    answer = ADAPTER.decode(streamed, timeline(sse(text("", "stop"), usage(3, 0))))
    assert (answer.output_tokens, answer.finish_reason, answer.failure) == (0, "stop", None)


# Ways to end badly.


@pytest.mark.parametrize(
    ("reads", "kind", "part"),
    [
        (b"", FailureKind.TRUNCATED, "without one event (0 bytes)"),
        (b": ping\n\n", FailureKind.TRUNCATED, "without one event (8 bytes)"),
        (sse(), FailureKind.MALFORMED, "without any answer"),
        (sse(text("a"), done=False), FailureKind.TRUNCATED, "without its end marker [DONE], 1 events in."),
        (sse(text("a", "length"), done=False), FailureKind.TRUNCATED, "after finish_reason length"),
        (sse(text("a"), done=False) + b'data: {"cho', FailureKind.TRUNCATED, "1 events in."),
        (sse(text("a")) + b"data: [DONE]", None, ""),
        (sse(text("a", "length"), done=False) + b"data: [DONE]", None, ""),
        (sse(text("a"), {"error": {"message": "out of\nblocks"}}), FailureKind.SERVER_ERROR, "out of blocks"),
        (sse(text("a"), {"error": "overloaded"}), FailureKind.SERVER_ERROR, "overloaded"),
        (sse({"object": "error", "message": "bad"}), FailureKind.SERVER_ERROR, "bad"),
        (b"event: error\ndata: boom\n\n", FailureKind.SERVER_ERROR, "boom"),
        (sse(text("a", "abort")), FailureKind.SERVER_ERROR, "gave the request up"),
        (sse(text("a"), done=False) + b"data: {{{\n\ndata: [DONE]\n\n", FailureKind.MALFORMED, "Event 2"),
        (b"data: " + b"[" * 100_000 + b"\n\n", FailureKind.MALFORMED, "Event 1"),
        (b"data: 7\n\ndata: [DONE]\n\n", FailureKind.MALFORMED, "Event 1 of the stream is no JSON object: 7"),
    ],
)
def test_streams_that_end_badly(timeline, streamed, reads, kind, part) -> None:
    failure = ADAPTER.decode(streamed, timeline(reads)).failure
    if kind is None:
        assert failure is None
    else:
        assert failure is not None
        assert failure.kind is kind
        assert part in failure.message


@pytest.mark.parametrize(
    ("body", "kind", "part"),
    [
        (b"", FailureKind.TRUNCATED, "empty body"),
        (b"<html>", FailureKind.MALFORMED, "no JSON object: <html>"),
        (b"{}", FailureKind.MALFORMED, "holds no answer: {}"),
        (b'{"error":{"message":"no"}}', FailureKind.SERVER_ERROR, "under HTTP 200: no"),
    ],
)
def test_bodies_that_are_no_answer(timeline, whole, body, kind, part) -> None:
    failure = ADAPTER.decode(whole, timeline(body, content_type="application/json")).failure
    assert failure is not None
    assert failure.kind is kind
    assert part in failure.message


def test_a_json_error_where_a_stream_was_asked_for(timeline, streamed) -> None:
    failure = ADAPTER.decode(streamed, timeline(b'{"error":"full"}', content_type="application/json")).failure
    assert failure == Failure(FailureKind.SERVER_ERROR, "The server reported an error under HTTP 200: full")


def test_one_piece_where_a_stream_was_asked_for_is_no_stream(timeline, streamed) -> None:
    body = json.dumps(text("a b", "stop")).encode()
    answer = ADAPTER.decode(streamed, timeline(body, content_type="application/json"))
    assert answer.failure is not None
    assert answer.failure.kind is FailureKind.MALFORMED
    assert answer.text == "a b"


def test_rate_limited_tells_how_long_to_wait(timeline, streamed) -> None:
    refused = timeline(b'{"detail":"slow down"}', 429, "application/json", retry_after="7")
    failure = ADAPTER.decode(streamed, refused).failure
    assert failure == Failure(FailureKind.RATE_LIMITED, "HTTP 429: slow down (Retry-After: 7)")


def test_a_refusal_is_quoted_within_bounds_and_without_control_characters(timeline, streamed) -> None:
    refused = timeline([b'{"message":"\x1b[31m', b"no \\u0000" + b"x" * 5000, b'"}'], 500, "text/plain")
    failure = ADAPTER.decode(streamed, refused).failure
    assert failure is not None
    assert failure.message.startswith("HTTP 500: ")
    assert len(failure.message) < 330
    assert failure.message.isprintable()


def test_what_came_before_a_timeout_is_decoded_and_the_timeout_kept(timeline, streamed) -> None:
    cut = timeline(sse(text("a"), done=False))
    cut.failure = Failure(FailureKind.IDLE_TIMEOUT, "nothing for 60 s")
    answer = ADAPTER.decode(streamed, cut)
    assert (answer.text, answer.failure) == ("a", cut.failure)


def test_an_error_event_explains_the_cut_that_follows_it(timeline, streamed) -> None:
    cut = timeline(sse({"error": {"message": "worker died"}}, done=False))
    cut.failure = Failure(FailureKind.TRUNCATED, "connection closed")
    failure = ADAPTER.decode(streamed, cut).failure
    assert failure is not None
    assert failure.kind is FailureKind.SERVER_ERROR


def test_half_a_surrogate_pair_can_be_written_as_utf8(timeline, streamed) -> None:
    body = b'data: {"choices":[{"text":"a\\ud83d","finish_reason":"length"}]}\n\ndata: [DONE]\n\n'
    assert ADAPTER.decode(streamed, timeline(body)).text.encode() == "a\ufffd".encode()


def test_absurd_counts_are_not_taken(timeline, streamed) -> None:
    for absurd in (-1, 2**40, True, 1.5, "3", None):
        body = sse(text("a", "stop"), {"choices": [], "usage": {"prompt_tokens": absurd, "completion_tokens": absurd}})
        answer = ADAPTER.decode(streamed, timeline(body))
        assert (answer.prompt_tokens, answer.output_tokens) == (None, 1)


# However the network cuts it, and whatever it holds.


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
field_names = st.sampled_from(
    [
        "choices",
        "usage",
        "error",
        "delta",
        "message",
        "text",
        "content",
        "logprobs",
        "token_ids",
        "finish_reason",
        "completion_tokens",
        "prompt_tokens",
        "prompt_token_ids",
        "tool_calls",
        "function",
        "name",
        "arguments",
        "tokens",
    ]
)
lookalikes = st.recursive(
    json_values,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(field_names, inner, max_size=4),
    max_leaves=12,
)
REQUESTS = [GenerationRequest("r0", "tiny", 6, prompt="x", stream=stream) for stream in (True, False)]


def check_lawful(timeline: Timeline) -> None:
    for request in REQUESTS:
        for count_tokens in (None, lambda words: len(words.split())):
            answer = ADAPTER.decode(request, timeline, count_tokens)
            assert [event.chunk for event in answer.events] == list(range(len(timeline.chunk_ns)))
            assert all(event.tokens >= 0 for event in answer.events)
            assert sum(tokens(answer)) == (answer.output_tokens or 0)
            assert (answer.output_tokens is None) == (answer.token_source is None)
            answer.text.encode()
            if answer.failure is not None:
                assert answer.failure.message.isprintable()


@given(st.sampled_from(CAPTURED), st.lists(st.tuples(st.integers(0), st.binary(max_size=4)), min_size=1, max_size=6))
def test_mutated_streams_never_raise(name: str, mutations: list[tuple[int, bytes]]) -> None:
    body = bytearray(
        (Path(__file__).parents[2] / "data" / "wire" / "vllm" / f"{name}.txt").read_bytes().split(b"\n\n", 1)[1]
    )
    for position, replacement in mutations:
        at = position % (len(body) + 1)
        body[at : at + len(replacement) // 2] = replacement
    for content_type in ("text/event-stream", "application/json", ""):
        check_lawful(
            Timeline(
                0,
                status=200,
                headers=[("content-type", content_type)],
                chunk_ns=[1, 2],
                chunk_bytes=[bytes(body[:700]), bytes(body[700:])],
            )
        )


@given(st.lists(lookalikes, max_size=4), st.sampled_from([200, 204, 302, 400, 429, 503, None]))
def test_json_of_any_shape_never_raises(bodies: list[object], status: int | None) -> None:
    for reads in ([sse(*bodies)], [json.dumps(body).encode() for body in bodies]):
        check_lawful(Timeline(0, status=status, chunk_ns=list(range(len(reads))), chunk_bytes=reads))
