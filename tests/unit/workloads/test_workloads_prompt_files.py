"""Prompts from files: passages of a text, rows of JSON Lines, and ShareGPT's conversations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from prompt_workloads import spec

from llmbench.workloads.loader import WorkloadError
from llmbench.workloads.prompts import FileTokenizer, build_prompts


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(
        "Ein Wörterbuch — naïve café; 日本語 text.\n\nAnother paragraph, with “quotes” and more words. " * 9
    )
    return path


def test_passages_have_exact_lengths(any_tokenizer: FileTokenizer, text_file: Path) -> None:
    prompts = {"kind": "text", "path": str(text_file), "prompt_tokens": {"kind": "uniform", "min": 12, "max": 150}}
    planned = build_prompts(spec(prompts), any_tokenizer)
    counts = [len(any_tokenizer.encode(one.prompt or "", add_special_tokens=True)) for one in planned]
    assert counts == [one.prompt_tokens for one in planned]
    assert all(12 <= count <= 150 for count in counts)


def test_passages_hold_the_text(tokenizer: FileTokenizer, text_file: Path) -> None:
    prompts = {"kind": "text", "path": str(text_file), "prompt_tokens": 120}
    for planned in build_prompts(spec(prompts), tokenizer):
        assert planned.prompt is not None
        assert "paragraph, with “quotes”" in planned.prompt


def test_passages_without_a_tokenizer_are_counted_in_words(text_file: Path) -> None:
    prompts = {"kind": "text", "path": str(text_file), "prompt_tokens": 20, "salt": "none"}
    for planned in build_prompts(spec(prompts), None):
        assert planned.prompt_tokens is None
        assert len((planned.prompt or "").split()) == 20


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "holds no words"), (b" \n", "holds no words"), (b"ab\xff", "offset 2 is not UTF-8")],
)
def test_a_useless_text_file_is_refused(tmp_path: Path, tokenizer: FileTokenizer, content: bytes, message: str) -> None:
    (tmp_path / "t").write_bytes(content)
    with pytest.raises(WorkloadError, match=message):
        build_prompts(spec({"kind": "text", "path": str(tmp_path / "t")}), tokenizer)


def jsonl(path: Path, *rows: object) -> str:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    return str(path)


def test_jsonl_rows_in_order_and_again(tmp_path: Path, tokenizer: FileTokenizer) -> None:
    rows = [{"q": "one\u2028two", "n": 5, "id": 1}, {"q": "three", "n": 7}]
    fields = {"prompt": "q", "max_tokens": "n"}
    prompts = {"kind": "jsonl", "path": jsonl(tmp_path / "p", *rows), "fields": fields, "shuffle": False}
    plain = build_prompts(spec(prompts | {"salt": "none"}), None)
    assert [(one.prompt, one.max_tokens, one.prompt_tokens) for one in plain[:3]] == [
        ("one\u2028two", 5, None),
        ("three", 7, None),
        ("one\u2028two", 5, None),
    ]
    salted = build_prompts(spec(prompts), tokenizer)
    assert all((one.prompt or "").endswith(two.prompt or "?") for one, two in zip(salted, plain, strict=True))
    assert len({one.prompt for one in salted}) == 6
    assert salted[1].prompt_tokens == len(tokenizer.encode(salted[1].prompt or "", add_special_tokens=True))


def test_jsonl_lengths_from_the_workload_win(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "p", {"prompt": "one", "max_tokens": 5})
    planned = build_prompts(spec({"kind": "jsonl", "path": path, "output_tokens": 3}), None)
    assert {one.max_tokens for one in planned} == {3}


def test_jsonl_messages_are_salted_in_the_first(tmp_path: Path) -> None:
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}]
    path = jsonl(tmp_path / "p", {"messages": messages, "max_tokens": 5})
    [one, *_] = build_prompts(spec({"kind": "jsonl", "path": path}, request={"api": "chat"}), None)
    assert one.messages is not None
    assert one.messages[0][0] == "system"
    assert one.messages[0][1].endswith(" be brief")
    assert one.messages[1] == ("user", "hello")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"prompt": "a"', r"p:1:15: not valid JSON"),
        ("[1]", r"p:1: given \[1\], allowed: a JSON object"),
        ('{"text": "a"}', r"p:1: the row has neither 'prompt' nor 'messages', its fields are: 'text'"),
        ('{"prompt": 3}', r"p:1: prompt: given 3, allowed: text"),
        ('{"prompt": "\\ud800"}', r"p:1: prompt: given"),
        ('{"prompt": "a", "max_tokens": true}', r"p:1: max_tokens: given true"),
        ('{"prompt": "a", "max_tokens": 0}', r"p:1: max_tokens: given 0"),
        ('{"prompt": "a"}', r"p:1: nothing says how long the answer should be"),
        ('{"messages": []}', r"request.api is completions; set it to chat"),
        ("", "holds no rows"),
        ("[" * 100_000, "not JSON that can be read|not valid JSON"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: str, message: str) -> None:
    (tmp_path / "p").write_text(row)
    with pytest.raises(WorkloadError, match=message):
        build_prompts(spec({"kind": "jsonl", "path": str(tmp_path / "p")}), None)


@pytest.mark.parametrize("messages", [3, [], [3], [{"role": "user"}], [{"role": "user", "content": ["x"]}]])
def test_bad_messages_are_named(tmp_path: Path, messages: object) -> None:
    path = jsonl(tmp_path / "p", {"messages": messages, "max_tokens": 1})
    with pytest.raises(WorkloadError, match=r"p:1: messages: given"):
        build_prompts(spec({"kind": "jsonl", "path": path}, request={"api": "chat"}), None)


CONVERSATIONS = [
    {"id": "no answer", "conversations": [{"from": "human", "value": "hello there my friend, how are you"}]},
    {"id": "too short", "conversations": [{"from": "human", "value": "x"}, {"from": "gpt", "value": "y"}]},
    {
        "id": "kept",
        "conversations": [
            {"from": "system", "value": "be nice"},
            {"from": "human", "value": "What does the raise statement do in this language?"},
            {"from": "gpt", "value": "It raises the exception that stands behind it."},
            {"from": "human", "value": "Thanks."},
        ],
    },
    {
        "id": "too long",
        "conversations": [{"from": "human", "value": "why " * 2000}, {"from": "gpt", "value": "as " * 9}],
    },
    "not a conversation",
]


def test_sharegpt_asks_the_first_question_for_as_long_an_answer(tmp_path: Path, tokenizer: FileTokenizer) -> None:
    (tmp_path / "s.json").write_text(json.dumps(CONVERSATIONS))
    planned = build_prompts(spec({"kind": "sharegpt", "path": str(tmp_path / "s.json"), "salt": "none"}), tokenizer)
    assert {one.prompt for one in planned} == {"What does the raise statement do in this language?"}
    assert {one.max_tokens for one in planned} == {
        len(tokenizer.encode("It raises the exception that stands behind it."))
    }


def test_sharegpt_without_a_tokenizer_needs_answer_lengths(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(json.dumps(CONVERSATIONS))
    prompts = {"kind": "sharegpt", "path": str(tmp_path / "s.json")}
    with pytest.raises(WorkloadError, match=r"conversation \d: nothing says how long the answer should be"):
        build_prompts(spec(prompts), None)
    assert build_prompts(spec(prompts | {"output_tokens": 8}), None)[0].max_tokens == 8


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "allowed: a JSON list"),
        ("[]", "none of 0 conversations has a human turn"),
        (json.dumps(CONVERSATIONS[1:2]), "none of 1 conversations is within prompts.min_tokens"),
        ('[\n{"a": }]', r"s.json:2:7: not valid JSON"),
    ],
)
def test_a_useless_sharegpt_file_is_refused(
    tmp_path: Path, tokenizer: FileTokenizer, content: str, message: str
) -> None:
    (tmp_path / "s.json").write_text(content)
    with pytest.raises(WorkloadError, match=message):
        build_prompts(spec({"kind": "sharegpt", "path": str(tmp_path / "s.json")}), tokenizer)


@pytest.mark.parametrize("kind", ["text", "jsonl", "sharegpt"])
def test_a_missing_file_of_prompts_is_named(tmp_path: Path, tokenizer: FileTokenizer, kind: str) -> None:
    with pytest.raises(WorkloadError, match=r"nowhere: .* cannot be read"):
        build_prompts(spec({"kind": kind, "path": str(tmp_path / "nowhere")}), tokenizer)
