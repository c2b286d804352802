"""The hand-built JSON is JSON, whatever the text, and says what the deltas said."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbench.reference_engine.sampling import TokenLogprobs
from llmbench.reference_engine.server.formats import AnswerFormat, ChatFormat, CompletionFormat, Usage
from llmbench.reference_engine.server.generation import Delta


class Names:
    """A tokenizer that only names its tokens."""

    def token_text(self, token_id: int) -> str:
        return f"<{token_id}>"

    def token_bytes(self, token_id: int) -> bytes:
        return self.token_text(token_id).encode()


class Crab:
    """A tokenizer whose tokens 0 to 3 are the bytes of one character, and 4 a word."""

    def token_text(self, token_id: int) -> str:
        return " sea" if token_id == 4 else "\ufffd"

    def token_bytes(self, token_id: int) -> bytes:
        return b" sea" if token_id == 4 else "🦀".encode()[token_id : token_id + 1]


def completion(with_token_ids: bool = True) -> CompletionFormat:
    return CompletionFormat('id"1', "mödel", Names(), with_token_ids, num_choices=2)  # type: ignore[arg-type]


def chat(with_token_ids: bool = True) -> ChatFormat:
    return ChatFormat('id"1', "mödel", Names(), with_token_ids)  # type: ignore[arg-type]


def delta(text: str, *, end: str | None = None, stop: str | int | None = None, logprobs: bool = False) -> Delta:
    listed = [TokenLogprobs(5, float("-inf"), ((6, -0.5),))] if logprobs else None
    return Delta(text, [5], listed, 3, 2, end, stop)


def event(chunk: bytes) -> dict:
    assert b"\n" not in chunk, "a line break inside would end the event"
    return json.loads(chunk)


@given(text=st.text(), stop=st.one_of(st.none(), st.text(min_size=1), st.integers(0, 9)))
def test_any_text_survives_both_formats(text: str, stop: str | int | None) -> None:
    last = delta(text, end="stop", stop=stop)
    streamed = event(completion().chunk(1, last, None, [1, 2]))
    assert streamed["id"] == 'cmpl-id"1'
    assert streamed["model"] == "mödel"
    (choice,) = streamed["choices"]
    assert (choice["text"], choice["index"], choice["stop_reason"]) == (text, 1, stop)
    assert (choice["token_ids"], choice["prompt_token_ids"]) == ([5], [1, 2])
    (choice,) = event(chat().chunk(0, last, None, None))["choices"]
    assert (choice["delta"]["content"], choice["finish_reason"]) == (text, "stop")


@pytest.mark.parametrize("made", [completion(), chat()])
def test_whole_answer_is_the_sum_of_its_deltas(made: AnswerFormat) -> None:
    deltas = [delta("a", logprobs=True), delta("", logprobs=True), delta("b", end="length", logprobs=True)]
    usage = Usage([4], 1)
    usage.note(0, deltas[-1])
    answer = json.loads(made.whole([made.whole_choice(0, deltas, [1, 2, 3, 4])], usage.json()))
    (choice,) = answer["choices"]
    text = choice["text"] if "text" in choice else choice["message"]["content"]
    assert text == "ab"
    assert choice["token_ids"] == [5, 5, 5]
    assert answer["usage"] == {
        "prompt_tokens": 4,
        "completion_tokens": 3,
        "total_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 2},
    }


def test_usage_tells_how_drafts_fared() -> None:
    usage = Usage([4], 1)
    for num_accepted in (3, 1):
        usage.note(0, delta("a")._replace(num_draft_tokens=4, num_accepted_tokens=num_accepted))
    assert json.loads(usage.json())["completion_tokens_details"] == {
        "accepted_prediction_tokens": 4,
        "rejected_prediction_tokens": 4,
    }


def test_impossible_token_has_a_number_that_json_can_say() -> None:
    (choice,) = event(completion().chunk(0, delta("a", logprobs=True), None, None))["choices"]
    assert choice["logprobs"] == {
        "text_offset": [0],
        "tokens": ["<5>"],
        "token_logprobs": [-9999.0],
        "top_logprobs": [{"<6>": -0.5, "<5>": -9999.0}],
    }


def test_chat_opens_with_its_role_and_completions_with_nothing() -> None:
    assert event(chat().opening(0))["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert completion().opening(0) is None


def test_cached_tokens_of_a_prompt_count_once() -> None:
    """Two answers to each of two prompts: the second answer finds what the first has had computed."""
    usage = Usage([40, 30], 2)
    for index, cached in enumerate((16, 32, 0, 16)):
        usage.note(index, delta("a")._replace(num_cached_tokens=cached))
    assert json.loads(usage.json())["prompt_tokens_details"] == {"cached_tokens": 16}
    assert json.loads(usage.json())["prompt_tokens"] == 70


def test_parts_of_a_character_have_names_offsets_and_bytes_of_their_own() -> None:
    entries = [TokenLogprobs(part, -0.5, ((0, -0.5), (1, -1.0), (2, -2.0))) for part in (0, 1, 2, 3, 4, 4)]
    told = Delta("", [0, 1, 2, 3, 4, 4], entries, 6, 0, "length", None)
    made = CompletionFormat("id", "m", Crab(), False, num_choices=1)  # type: ignore[arg-type]
    logprobs = json.loads(made.whole([made.whole_choice(0, [told], [])], "null"))["choices"][0]["logprobs"]
    assert logprobs["tokens"] == ["bytes:\\xf0", "bytes:\\x9f", "bytes:\\xa6", "bytes:\\x80", " sea", " sea"]
    assert [len(top) for top in logprobs["top_logprobs"]] == [3, 3, 3, 4, 4, 4]
    assert logprobs["text_offset"] == [0, 0, 0, 0, 1, 5]  # of "🦀 sea sea"
    chat_format = ChatFormat("id", "m", Crab(), False)  # type: ignore[arg-type]
    content = event(chat_format.chunk(0, told, None, None))["choices"][0]["logprobs"]["content"]
    assert bytes(byte for token in content for byte in token["bytes"]).decode() == "🦀 sea sea"
