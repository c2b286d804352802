"""What tritonserver really sent becomes the right events, and its traps the right failures."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbench.engines import reference_settings, registry
from llmbench.engines.adapter import EngineError
from llmbench.engines.triton_launch import ENGINE_SETTINGS
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
from llmbench.reference_engine.config import EngineConfig

HERE = Endpoint("127.0.0.1", 8000)
PLAIN = {"stop": None, "top_k": None}


def triton(schema: object = "vllm"):
    return registry.get("triton", {"schema": schema})


def pairs(answer: DecodedAnswer) -> list[tuple[int, str]]:
    return [(event.tokens, event.text) for event in answer.events]


@pytest.mark.parametrize(
    ("name", "schema", "source", "expected"),
    [
        (
            "vllm_generate_stream_sp",
            "vllm",
            TokenSource.USAGE_DELTA,
            [(1, " nothing"), (1, " client"), (1, " client"), (1, " used")],
        ),
        ("trtllm_generate_stream", "trtllm", TokenSource.USAGE_DELTA, [(1, "tok0 "), (1, "tok1 "), (1, "tok2 ")]),
        # Each response holds the text so far.
        (
            "llmapi_generate_stream_reason",
            "llmapi",
            TokenSource.ASSUMED_ONE,
            [(1, "tok0 "), (1, "tok1 "), (1, "tok2 ")],
        ),
        ("plain_generate_stream", PLAIN, TokenSource.ASSUMED_ONE, [(1, f"tok{index} ") for index in range(4)]),
    ],
)
def test_captured_streams_give_their_exact_events(capture, streamed, name, schema, source, expected) -> None:
    answer = triton(schema).decode(streamed, capture(f"triton/{name}"))
    assert pairs(answer) == expected
    assert (answer.token_source, answer.output_tokens) == (source, len(expected))
    assert answer.failure is None


def test_the_vllm_backend_counts_its_prompt_and_says_why_it_ended(capture, streamed) -> None:
    answer = triton().decode(streamed, capture("triton/vllm_generate_stream_sp"))
    assert (answer.prompt_tokens, answer.finish_reason) == (8, "length")


def test_captured_answers_in_one_piece(capture, whole) -> None:
    answer = triton("trtllm").decode(whole, capture("triton/trtllm_generate"))
    assert (answer.text, answer.output_tokens, answer.token_source) == ("tok0 tok1 tok2", 3, TokenSource.SERVER_COUNT)
    answer = triton().decode(whole, capture("triton/vllm_generate_exclude"))
    assert (answer.text, answer.output_tokens) == (" nothing client client used used used", None)


@pytest.mark.parametrize(
    ("name", "kind", "part"),
    [
        # Refused by its first response: status 400 and a body of events.
        ("plain_err_model_fail_stream", FailureKind.HTTP_STATUS, "HTTP 400: Error generating stream: asked to fail"),
        ("vllm_err_bad_param", FailureKind.HTTP_STATUS, "HTTP 400: Error generating stream: 'NoneType' object has no"),
        (
            "plain_err_unknown_model",
            FailureKind.HTTP_STATUS,
            "HTTP 404: Request for unknown model: 'nope' is not found",
        ),
        # Later ones come under status 200.
        ("plain_err_model_failmid_stream", FailureKind.SERVER_ERROR, "asked to fail midway"),
        ("vllm_err_generate_stream_true", FailureKind.SERVER_ERROR, "generate expects model to produce exactly 1"),
        # Nothing at all: no tokens asked for, or an ensemble whose required input is missing.
        ("plain_generate_stream_zero", FailureKind.TRUNCATED, "HTTP 200 and ended the stream without one event"),
        ("trtllm_missing_input", FailureKind.TRUNCATED, "HTTP 200 and ended the stream without one event"),
    ],
)
def test_captured_traps_are_failures(capture, streamed, name, kind, part) -> None:
    failure = triton(PLAIN).decode(streamed, capture(f"triton/{name}")).failure
    assert failure is not None
    assert failure.kind is kind
    assert part in failure.message


def test_a_stream_that_was_to_say_why_it_ended_and_does_not_is_cut(capture, streamed) -> None:
    answer = triton().decode(streamed, capture("triton/vllm_generate_stream"))
    assert answer.text == " nothing client client used"
    assert answer.failure == Failure(FailureKind.TRUNCATED, "The stream ended without a finish_reason, 4 events in.")


def test_cumulative_text_that_mends_half_a_character_loses_nothing_new(timeline, streamed) -> None:
    texts = ["a", "a\ufffd", "aé b"]
    body = b"".join(b"data: " + json.dumps({"text_output": text}).encode() + b"\n\n" for text in texts)
    answer = triton({"like": "llmapi", "finish_reason": None}).decode(streamed, timeline(body))
    assert answer.text == "a\ufffdé b"


def sent(schema: object, **fields: object) -> tuple[bytes, dict[str, object]]:
    request = GenerationRequest("r", "my model", 4, **{"prompt": "x"} | fields)
    head, _, body = triton(schema).encode(request, HERE).payload.partition(b"\r\n\r\n")
    return head.split()[1], json.loads(body)


def test_the_vllm_backend_gets_its_sampling_as_json() -> None:
    target, body = sent("vllm", stop=("a",))
    assert target == b"/v2/models/my%20model/generate_stream"
    assert json.loads(body["sampling_parameters"]) == {
        "max_tokens": 4,
        "temperature": 0.0,
        "stop": ["a"],
        "ignore_eos": True,
    }
    assert (body["text_input"], body["stream"], body["id"]) == ("x", True, "r")
    assert body["exclude_input_in_output"] is True


def test_tensorrt_llm_is_greedy_by_top_k_and_gets_every_required_input() -> None:
    target, body = sent("trtllm", stream=False)
    assert target == b"/v2/models/my%20model/generate"
    assert (body["max_tokens"], body["top_k"], body["bad_words"], body["stop_words"]) == (4, 1, "", "")
    assert "temperature" not in body
    assert sent("trtllm", stop=("a", "b"))[1]["stop_words"] == ["a", "b"]
    assert sent("trtllm", temperature=0.5, top_k=7)[1].items() >= {"temperature": 0.5, "top_k": 7}.items()
    assert sent("llmapi")[1].items() >= {"streaming": True, "sampling_param_max_tokens": 4}.items()


def test_a_schema_may_be_written_out() -> None:
    _, body = sent({"prompt": "PROMPT", "stream": None, "max_tokens": "N", "always": {"k": 1}}, stream=False)
    assert body == {"id": "r", "k": 1, "PROMPT": "x", "N": 4, "temperature": 0.0}


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"schema": "tensorrt"}, "it knows vllm, trtllm, llmapi, or a mapping of names"),
        ({"schema": {"promt": "x"}}, r"no setting 'promt'.*did you mean prompt\?"),
        ({"schema": {"prompt": None}}, "settings.schema.prompt of triton must be a name; got None"),
        ({"schema": {"is_cumulative": "yes"}}, "must be true or false; got 'yes'"),
        ({"schema": 3}, "must be a name or a mapping of names; got 3"),
        ({"shema": "vllm"}, r"did you mean schema\?"),
        ({"extra_body": 3}, "must map names to values"),
    ],
)
def test_settings_that_are_not_understood(settings, part) -> None:
    with pytest.raises(EngineError, match=part):
        registry.get("triton", settings)


def test_requests_that_triton_cannot_take() -> None:
    with pytest.raises(EngineError, match="is a chat"):
        sent("vllm", prompt=None, messages=(ChatMessage("user", "x"),))
    with pytest.raises(EngineError, match="names no `stream` input"):
        sent({"stream": None})


scalars = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
names = st.sampled_from(["text_output", "finish_reason", "num_output_tokens", "num_input_tokens", "error"])
bodies = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner), max_leaves=8)


@given(st.lists(bodies, max_size=4), st.booleans(), st.sampled_from(["vllm", "trtllm", "llmapi"]))
def test_json_of_any_shape_never_raises(found: list[object], stream: bool, schema: str) -> None:
    reads = [b"data: " + json.dumps(body).encode() + b"\n\n" for body in found]
    answer = triton(schema).decode(
        GenerationRequest("r", "m", 4, prompt="x", stream=stream),
        Timeline(0, status=200, chunk_ns=list(range(len(reads))), chunk_bytes=reads),
    )
    assert sum(event.tokens for event in answer.events) == (answer.output_tokens or 0)
    answer.text.encode()


def config(**inputs: bool) -> bytes:
    tensors = [{"name": name, "optional": optional} for name, optional in inputs.items()]
    outputs = [{"name": name} for name in ("text_output", "finish_reason")]
    return json.dumps({"input": tensors, "output": outputs}).encode()


PLAIN_INPUTS = {"text_input": False, "stream": True, "max_tokens": True}


@pytest.mark.parametrize(
    ("schema", "inputs", "part"),
    [
        (PLAIN, PLAIN_INPUTS, None),
        ({"prompt": "txt_input"}, PLAIN_INPUTS, "has no input 'txt_input'; it has max_tokens, stream, text_input (did"),
        ({"text": "out"}, PLAIN_INPUTS, "has no output 'out'; it has finish_reason, text_output"),
        (PLAIN, PLAIN_INPUTS | {"bad_words": False}, "requires the input 'bad_words', which is not sent"),
        ("vllm", PLAIN_INPUTS, "has no input 'sampling_parameters'"),
    ],
)
def test_a_model_without_the_tensors_is_found_out_before_it_is_asked(schema, inputs, part) -> None:
    adapter = triton(schema)
    assert adapter.inspection_path("my model") == "/v2/models/my%20model/config"
    problem = adapter.inspect("m", config(**inputs))
    assert problem is None if part is None else part in problem


def test_extra_body_counts_as_sent_and_null_as_left_out() -> None:
    adapter = registry.get("triton", {"schema": PLAIN, "extra_body": {"bad_words": "", "stream": None}})
    assert adapter.inspect("m", config(text_input=False, max_tokens=True, bad_words=False)) is None
    assert triton(PLAIN).inspect("m", b"[]") is None


def test_a_name_with_a_colon_stays_as_it_is() -> None:
    request = GenerationRequest("r", "synthetic:llama-20m", 4, prompt="x")
    assert triton().encode(request, HERE).payload.startswith(b"POST /v2/models/synthetic:llama-20m/generate_stream ")


def test_the_bundled_engine_tells_its_tokens_with_the_last_response(timeline, streamed) -> None:
    bodies = [
        {"text_output": "a", "finish_reason": "None", "num_output_tokens": 1},
        {"text_output": "b", "finish_reason": "length", "num_output_tokens": 2, "token_ids": [7, 8, 9]},
    ]
    reads = [f"data: {json.dumps(body)}\n\n".encode() for body in bodies]
    answer = triton().decode(streamed, timeline(reads))
    assert (pairs(answer), answer.token_ids) == ([(1, "a"), (2, "b")], (7, 8, 9))
    assert answer.token_source is TokenSource.USAGE_DELTA
    # Ids that are fewer than the tokens say nothing of where an answer parts from another.
    bodies[1]["token_ids"] = 7
    reads = [f"data: {json.dumps(body)}\n\n".encode() for body in bodies]
    assert triton().decode(streamed, timeline(reads)).token_ids is None


def test_started_here_it_takes_every_option_of_the_bundled_engine() -> None:
    assert set(ENGINE_SETTINGS) == set(reference_settings.SETTINGS)
    fields = {field.name for field in dataclasses.fields(EngineConfig)}
    assert set(ENGINE_SETTINGS.values()) == fields - {"model_path"}
