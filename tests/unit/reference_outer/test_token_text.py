"""Tokenizers that spell spaces by a sign and unknown characters by bytes, as Llama 2's and Mistral's do.

An answer stands behind its prompt: its first word keeps its space, and every token has bytes that add up to the text.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_pieces import write_pieces
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders, models, normalizers, processors, trainers

from llmbench.reference_engine.models.checkpoint_layout import BOS, train_tokenizer
from llmbench.reference_engine.models.synthetic_text import lines
from llmbench.reference_engine.tokenizer import StopFinder, Tokenizer

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
TEXTS = st.text(st.sampled_from("ab é日🙂\n"), min_size=1, max_size=20)


def write_llama2(folder: Path) -> None:
    """A tokenizer.json as conversions of Llama 2's have it."""
    tokenizer = FastTokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    special = ["<unk>", BOS, "</s>"]
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=[*special, *BYTES], show_progress=False)
    tokenizer.train_from_iterator(lines(300, 200, seed=1), trainer)
    described = json.loads(tokenizer.to_str())
    # The trainer knows no other way to have them than as special tokens.
    described["added_tokens"] = [token for token in described["added_tokens"] if token["content"] in special]
    tokenizer = FastTokenizer.from_str(json.dumps(described))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 1)])
    tokenizer.save(str(folder / "tokenizer.json"))


def write_byte_level(folder: Path) -> None:
    train_tokenizer(lines(600, 300, seed=1), 600).save(str(folder / "tokenizer.json"))


def write_sentencepiece(folder: Path) -> None:
    write_pieces(folder, model_type="bpe", normalization_rule_name="identity", remove_extra_whitespaces=False)


@pytest.fixture(scope="module", params=[write_llama2, write_byte_level, write_sentencepiece])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    request.param(folder)
    return Tokenizer(folder)


def answered(tokenizer: Tokenizer, prompt: list[int], answer: list[int]) -> str:
    stream = tokenizer.stream(prompt)
    return "".join(map(stream.push, answer))


@settings(max_examples=150, deadline=None)
@given(text=TEXTS, place=st.integers(0, 40))
def test_an_answer_goes_on_where_its_prompt_ends(tokenizer: Tokenizer, text: str, place: int) -> None:
    ids = tokenizer.encode(text)
    prompt, answer = ids[:place], ids[place:]
    if tokenizer.decode(prompt).endswith("\ufffd"):
        return  # the answer completes its character
    assert tokenizer.decode(prompt) + answered(tokenizer, prompt, answer) == tokenizer.decode(ids)


def test_the_first_word_of_an_answer_keeps_its_space(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("to be", add_special_tokens=False)
    words = [place for place in range(1, len(ids)) if tokenizer.token_text(ids[place]).startswith(" ")]
    assert answered(tokenizer, ids[: words[0]], ids[words[0] :]) == " be"
    # Behind control tokens too, as at the end of a chat's prompt, but not at the beginning of all text.
    bos = tokenizer.encode("a")[0]
    assert answered(tokenizer, [*ids[: words[0]], bos, bos], ids[words[0] :]) == " be"
    assert answered(tokenizer, [bos], tokenizer.encode("to be")[1:]) == "to be"


@settings(max_examples=150, deadline=None)
@given(text=TEXTS, place=st.integers(0, 40), length=st.integers(1, 4), start=st.integers(0, 20))
def test_a_stop_text_is_found_where_it_is_shown(
    tokenizer: Tokenizer, text: str, place: int, length: int, start: int
) -> None:
    ids = tokenizer.encode(text)
    prompt, answer = ids[:place], ids[place:]
    if tokenizer.decode(prompt).endswith("\ufffd") or tokenizer.decode(answer).endswith("\ufffd"):
        return
    shown = answered(tokenizer, prompt, answer)
    stop = shown[start : start + length] or text[:length]
    assert StopFinder(tokenizer, prompt, [stop])(answer) == (stop in shown)


def test_a_stop_text_is_found_with_the_space_that_an_answer_begins_with(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("to be", add_special_tokens=False)
    (place, *_) = (place for place in range(1, len(ids)) if tokenizer.token_text(ids[place]).startswith(" "))
    assert StopFinder(tokenizer, ids[:place], [" be"])(ids[place:])
    assert not StopFinder(tokenizer, [], [" be"])(tokenizer.encode("be", add_special_tokens=False))


@settings(max_examples=150, deadline=None)
@given(text=TEXTS)
def test_the_bytes_of_all_tokens_are_those_of_the_text(tokenizer: Tokenizer, text: str) -> None:
    prompt = tokenizer.encode("a")
    ids = tokenizer.encode("a" + text)
    if ids[: len(prompt)] != prompt:
        return
    answer = ids[len(prompt) :]
    assert b"".join(map(tokenizer.token_bytes, answer)).decode() == answered(tokenizer, prompt, answer)


def test_a_part_of_a_character_has_its_own_bytes(tokenizer: Tokenizer) -> None:
    parts = tokenizer.encode("🦀", add_special_tokens=False)[-4:]
    assert [tokenizer.token_text(part) for part in parts] == ["\ufffd"] * 4
    assert [tokenizer.token_bytes(part) for part in parts] == [b"\xf0", b"\x9f", b"\xa6", b"\x80"]


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_no_tokens_whatever_end_a_stream(tokenizer: Tokenizer, data: st.DataObject) -> None:
    """A model may write bytes that are no text; with byte tokens they may even undo characters that were shown."""
    some = st.integers(0, tokenizer.vocab_size - 1)
    few_bytes = st.sampled_from([token for byte in (0x20, 0x52, 0x80, 0xE2, 0xFF) for token in _spelt(tokenizer, byte)])
    ids = data.draw(st.lists(some | few_bytes, max_size=30))
    word = tokenizer.encode("to be", add_special_tokens=False)
    text = answered(tokenizer, word, [*ids, *word, *word])
    assert text.endswith("to be")


def _spelt(tokenizer: Tokenizer, byte: int) -> list[int]:
    return [token for token in range(tokenizer.vocab_size) if tokenizer.token_bytes(token) == bytes([byte])]
