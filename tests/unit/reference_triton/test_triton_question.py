"""What tensors of a request to Triton ask of the bundled engine."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbench.reference_engine.errors import RequestError
from llmbench.reference_engine.triton_server.question import read_question

STREAMED = {"text_input": "x", "stream": True}


def test_everything_that_can_be_asked() -> None:
    sampling = {"max_tokens": 5, "temperature": 0.5, "top_k": 3, "seed": 7, "ignore_eos": True, "stop": ["a", "b"]}
    question = read_question({**STREAMED, "sampling_parameters": json.dumps(sampling), "return_finish_reason": True})
    assert (question.prompt, question.stream, question.stop) == ("x", True, ("a", "b"))
    params = question.params
    assert (params.max_tokens, params.temperature, params.top_k, params.seed) == (5, 0.5, 3, 7)
    assert params.ignore_eos
    assert question.wants_finish_reason
    assert not question.wants_num_output_tokens


def test_one_stop_text_may_stand_alone_and_null_is_left_out() -> None:
    question = read_question({**STREAMED, "sampling_parameters": '{"stop": "a", "top_k": null}'})
    assert question.stop == ("a",)
    assert question.params.top_k is None
    assert question.user is None
    assert read_question({**STREAMED, "sampling_parameters": '{"user": "ann"}'}).user == "ann"


@pytest.mark.parametrize(
    ("inputs", "part"),
    [
        ({"sampling_parameters": "{"}, "sampling_parameters is no JSON"),
        ({"sampling_parameters": "[]"}, "sampling_parameters must be a JSON object"),
        ({"sampling_parameters": '{"max_tokns": 3}'}, "has no 'max_tokns' here; it knows stop, user, max_tokens"),
        ({"sampling_parameters": '{"stop": [""]}'}, "stop must be a text or a list of texts"),
        ({"sampling_parameters": '{"user": 3}'}, "user must be a text of at most 256 characters"),
        ({"sampling_parameters": json.dumps({"user": "u" * 257})}, "user must be a text of at most 256 characters"),
        ({"sampling_parameters": '{"max_tokens": "3"}'}, "max_tokens must be a whole number; 3 was given"),
        ({"sampling_parameters": '{"seed": 1.5}'}, "seed must be a whole number"),
        ({"sampling_parameters": '{"top_k": true}'}, "top_k must be a whole number"),
        ({"sampling_parameters": '{"temperature": 1%s}' % ("0" * 400)}, "temperature must be a number"),
        ({"sampling_parameters": '{"top_p": 0}'}, r"top_p must lie in \(0, 1\]"),
        # An answer in one piece would begin with its prompt, as vLLM's backend does unless told.
        ({"stream": False}, "set exclude_input_in_output"),
    ],
)
def test_what_cannot_be_asked_is_refused(inputs: dict[str, object], part: str) -> None:
    with pytest.raises(RequestError, match=part):
        read_question(STREAMED | inputs)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
NAMES = ["max_tokens", "temperature", "top_k", "top_p", "seed", "ignore_eos", "min_tokens", "stop", "user"]


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES), values))
def test_any_json_is_a_question_or_a_refusal(sampling: dict[str, object]) -> None:
    """A Triton stub that dies of a request takes all others with it."""
    try:
        read_question({**STREAMED, "sampling_parameters": json.dumps(sampling)})
    except RequestError:
        return
