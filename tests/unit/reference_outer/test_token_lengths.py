"""How much text a token can stand for: a bound that no text breaks, or none where a tokenizer may drop text."""

from __future__ import annotations

import json
import threading
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_pieces import write_pieces

from llmbench.reference_engine.models.checkpoint_layout import train_tokenizer
from llmbench.reference_engine.models.synthetic_text import lines
from llmbench.reference_engine.token_lengths import max_token_chars
from llmbench.reference_engine.tokenizer import JsonModel, Tokenizer

TRAINED = json.loads(train_tokenizer(lines(600, 300, seed=1), 700).to_str())
LONGEST = max(map(len, TRAINED["model"]["vocab"]))
BYTES = {f"<0x{byte:02X}>": byte for byte in range(256)}
# As Llama 2's and Mistral's tokenizer.json.
FALLBACK = {
    "version": "1.0",
    "normalizer": {
        "type": "Sequence",
        "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ],
    },
    "model": {
        "type": "BPE",
        "unk_token": "<unk>",
        "fuse_unk": True,
        "byte_fallback": True,
        "vocab": {**BYTES, "<unk>": 256, "▁": 257, "a": 258, "aa": 259, "▁▁": 260, "▁aa": 261},
        "merges": [["a", "a"], ["▁", "▁"], ["▁", "aa"]],
    },
}


def token(content: str, **options: bool) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    return {"id": 700, "content": content, **flags, **options}


def of(**changed: Any) -> dict[str, Any]:
    return {**TRAINED, **changed}


def model(**changed: Any) -> dict[str, Any]:
    return of(model={**TRAINED["model"], **changed})


BOUNDED = {
    "byte-level": (TRAINED, LONGEST),
    "long added token": (of(added_tokens=[token("<|" + "x" * 90 + "|>")]), 94),
    "NFC": (of(normalizer={"type": "NFC"}), 4 * LONGEST),
    "NFC twice": (
        of(normalizer={"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "NFKC"}]}),
        16 * LONGEST,
    ),
    "byte fallback": (FALLBACK, len("<0x00>")),
    "normalized added token": (of(normalizer={"type": "NFC"}, added_tokens=[token("x" * 50, normalized=True)]), 800),
    "shortening": (
        of(normalizer={"type": "Replace", "pattern": {"String": "ab "}, "content": "ab"}),
        2 * LONGEST,
    ),
}
UNBOUNDED = {
    "strips": of(normalizer={"type": "Strip", "strip_left": True, "strip_right": True}),
    "strips accents": of(normalizer={"type": "StripAccents"}),
    "replaces a pattern": of(normalizer={"type": "Replace", "pattern": {"Regex": " +"}, "content": " "}),
    "removes a text": of(normalizer={"type": "Replace", "pattern": {"String": " "}, "content": ""}),
    "unknown normalizer": of(normalizer={"type": "FromTheFuture"}),
    "drops whitespace": of(pre_tokenizer={"type": "Whitespace"}),
    "removes where it splits": of(
        pre_tokenizer={
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": " +"}, "behavior": "Removed", "invert": False},
                TRAINED["pre_tokenizer"],
            ],
        }
    ),
    "token that takes spaces with it": of(added_tokens=[token("<mask>", lstrip=True)]),
    "word pieces": of(model={"type": "WordPiece", "vocab": {"[UNK]": 0, "a": 1}, "unk_token": "[UNK]"}),
    "a byte has no token": model(vocab={k: v for k, v in TRAINED["model"]["vocab"].items() if k != "Ġ"}),
    "no byte level": of(pre_tokenizer=None),
    "fallback without all bytes": {
        **FALLBACK,
        "model": {**FALLBACK["model"], "vocab": {k: v for k, v in FALLBACK["model"]["vocab"].items() if k != "<0x7F>"}},
    },
}


@pytest.mark.parametrize("name", BOUNDED)
def test_bound(name: str) -> None:
    described, bound = BOUNDED[name]
    assert max_token_chars(described) == bound


@pytest.mark.parametrize("name", UNBOUNDED)
def test_no_bound_where_text_may_be_dropped(name: str) -> None:
    assert max_token_chars(UNBOUNDED[name]) is None


def write(folder: Path, described: dict[str, Any]) -> JsonModel:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(described))
    return JsonModel(path)


# What normalizers join or tokens are long for, beside anything.
PIECES = st.sampled_from(
    ["aa", " ", "  ", "e\u0301", "\u1100\u1161\u11a8", "α\u0313\u0301\u0345", "ab ", "return", "日", "\0"]
)


@pytest.mark.parametrize("name", BOUNDED)
def test_no_text_has_more_characters_than_its_tokens_can(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    made = write(tmp_path_factory.mktemp("bounded"), BOUNDED[name][0])
    bound = made.max_token_chars
    assert bound == BOUNDED[name][1]

    @settings(max_examples=150, deadline=None)
    @given(text=st.lists(PIECES | st.characters(exclude_categories=["Cs"]), max_size=30).map("".join))
    def check(text: str) -> None:
        assert len(text) <= bound * len(made.encode(text, add_special_tokens=False))

    check()


def test_no_character_is_composed_of_more_than_four() -> None:
    """Why NFC's bound is four times a token's: nothing decomposes to more, and nothing to none."""
    for form, most in (("NFD", 4), ("NFKD", 18)):
        lengths = [len(unicodedata.normalize(form, chr(code))) for code in range(0x110000)]
        assert (min(lengths), max(lengths)) == (1, most)


def test_sentencepiece_gives_no_bound(tmp_path: Path) -> None:
    write_pieces(tmp_path)
    assert Tokenizer(tmp_path).max_token_chars is None


LINE = "def f(x): return x\n"


def test_a_long_text_has_the_tokens_of_a_short_one(tmp_path: Path) -> None:
    """Another call of the library tokenises it."""
    made = write(tmp_path, TRAINED)
    assert made.encode(LINE * 2000, True) == [0, *2000 * made.encode(LINE, False)]


def test_other_threads_run_while_a_long_text_is_tokenised(tmp_path: Path) -> None:
    made = write(tmp_path, TRAINED)
    turns, is_over = [0], threading.Event()

    def take_turns() -> None:
        while not is_over.wait(0.001):
            turns[0] += 1

    other = threading.Thread(target=take_turns)
    other.start()
    before = turns[0]
    made.encode(LINE * 20_000, False)  # for some 0.3 s
    taken = turns[0] - before
    is_over.set()
    other.join()
    assert taken > 5
