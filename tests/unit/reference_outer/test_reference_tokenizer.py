"""Text as it grows: no half characters, nothing lost, nothing shown that a stop string may still swallow."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbench.reference_engine.models.checkpoint_layout import BOS, EOS, train_tokenizer
from llmbench.reference_engine.models.synthetic_text import lines
from llmbench.reference_engine.tokenizer import StopStrings, Tokenizer

VOCAB_SIZE = 700
TEXTS = st.text(st.sampled_from("aé日🙂 \n<s>"), max_size=40)


def write(folder: Path, **config: object) -> Tokenizer:
    train_tokenizer(lines(600, 300, seed=1), VOCAB_SIZE).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": BOS, "eos_token": EOS, **config}))
    return Tokenizer(folder)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return write(tmp_path_factory.mktemp("tokenizer"))


def streamed(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    stream = tokenizer.stream()
    return [stream.push(token_id) for token_id in ids]


@settings(max_examples=300, deadline=None)
@given(ids=st.lists(st.integers(0, VOCAB_SIZE - 1), max_size=40))
def test_any_tokens_come_out_as_their_full_text_does(tokenizer: Tokenizer, ids: list[int]) -> None:
    text, full = "".join(streamed(tokenizer, ids)), tokenizer.decode(ids)
    # Only the beginning of a character at the very end may be missing: it shows as U+FFFD where all is known.
    assert full.startswith(text)
    assert set(full[len(text) :]) <= {"\N{REPLACEMENT CHARACTER}"}


@settings(max_examples=200, deadline=None)
@given(text=TEXTS)
def test_no_piece_of_a_real_text_ends_in_half_a_character(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False)
    pieces = streamed(tokenizer, ids)
    assert "\N{REPLACEMENT CHARACTER}" not in "".join(pieces)
    assert "".join(pieces) == tokenizer.decode(ids)


def test_a_character_of_several_tokens_comes_with_its_last(tokenizer: Tokenizer) -> None:
    *_, last = ids = tokenizer.encode("🦀", add_special_tokens=False)
    assert len(ids) > 1, "a character that the tokenizer has not seen"
    assert streamed(tokenizer, [*ids, last]) == [*[""] * (len(ids) - 1), "🦀", ""]


@given(
    pieces=st.lists(st.text("ab", max_size=4), max_size=12),
    stop=st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3),
)
def test_stop_strings_split_anywhere(pieces: list[str], stop: list[str]) -> None:
    text = "".join(pieces)
    finder, shown, found = StopStrings(stop), "", None
    for number, piece in enumerate(pieces, 1):
        settled, found = finder.push(piece)
        shown += settled
        so_far = "".join(pieces[:number])
        places = [place for candidate in stop if (place := so_far.find(candidate)) >= 0]
        if found is not None:
            assert shown == so_far[: min(places)]
            assert so_far[min(places) :].startswith(found)
            return
        assert not places, "a stop string that is complete was not seen"
        assert so_far.startswith(shown)
        # Held back is exactly what may still become a stop string.
        held = so_far[len(shown) :]
        endings = [so_far[-n:] for n in range(1, 4) if n <= len(so_far)]
        assert held == max((end for end in endings if any(s.startswith(end) for s in stop)), key=len, default="")
    assert shown + finder.flush() == text


@given(
    pieces=st.lists(st.text("ab", max_size=4), max_size=12),
    stop=st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3),
    min_tokens=st.integers(0, 12),
)
def test_a_stop_text_within_the_first_tokens_ends_nothing(pieces: list[str], stop: list[str], min_tokens: int) -> None:
    exempt = len("".join(pieces[:min_tokens]))
    finder, shown = StopStrings(stop, min_tokens), ""
    for number, piece in enumerate(pieces, 1):
        settled, found = finder.push(piece)
        shown += settled
        so_far = "".join(pieces[:number])
        ends = [
            place
            for candidate in stop
            for place in range(len(so_far))
            if so_far.startswith(candidate, place) and place + len(candidate) > exempt and number > min_tokens
        ]
        assert (found is not None) == bool(ends)
        if found is not None:
            assert shown == so_far[: min(ends)]
            return
        assert so_far.startswith(shown)
    assert shown + finder.flush() == "".join(pieces)


def test_without_stop_strings_nothing_is_held_back() -> None:
    finder = StopStrings(())
    assert finder.push("abc") == ("abc", None)
    assert finder.flush() == ""


def test_prompt_begins_with_bos_unless_refused(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("word")[0] == 0
    assert tokenizer.encode("word")[1:] == tokenizer.encode("word", add_special_tokens=False)
