"""Checkpoints with a tokenizer.model alone, against the sentencepiece library itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from small_pieces import write_pieces

from llmbench.reference_engine.errors import CheckpointError
from llmbench.reference_engine.models.synthetic_text import lines
from llmbench.reference_engine.tokenizer import Tokenizer

TEMPLATE = "{% for m in messages %}{{ bos_token }}[INST] {{ m.content }} [/INST]{% endfor %}"


@pytest.fixture(scope="module", params=["bpe", "unigram"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As Llama's and Mistral's: bytes where no piece fits, digits split, a space before the first word."""
    made = tmp_path_factory.mktemp(request.param)
    write_pieces(
        made,
        [*lines(300, 80, seed=2), "été über naïve"],
        model_type=request.param,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
    )
    config = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": TEMPLATE}
    (made / "tokenizer_config.json").write_text(json.dumps(config))
    return made


@pytest.fixture(scope="module")
def oracle(folder: Path) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


@settings(max_examples=60, deadline=None)
# Without "<": the library alone does not read <s> where a text spells it out.
@given(text=st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="<"), max_size=30))
def test_ids_and_streamed_text_are_the_librarys(
    folder: Path, oracle: sentencepiece.SentencePieceProcessor, text: str
) -> None:
    tokenizer = Tokenizer(folder)
    ids = oracle.encode(text)
    assert tokenizer.encode(text) == [oracle.bos_id(), *ids]
    assert tokenizer.encode(text, add_special_tokens=False) == ids
    assert tokenizer.decode(ids) == oracle.decode(ids)
    stream = tokenizer.stream()
    streamed = "".join(map(stream.push, [*ids, oracle.eos_id()]))
    expected = oracle.decode(ids)
    assert streamed == expected or (expected.endswith("\ufffd") and expected.startswith(streamed))


def test_a_character_of_four_bytes_comes_whole_and_spaces_where_they_are(folder: Path) -> None:
    tokenizer = Tokenizer(folder)
    stream = tokenizer.stream()
    pieces = [stream.push(token_id) for token_id in tokenizer.encode("to be 𓀀  or", add_special_tokens=False)]
    assert "".join(pieces) == "to be 𓀀  or"
    assert "𓀀" in pieces
    assert pieces.count("") >= 3


def test_ids_of_a_padded_vocabulary_have_no_text(folder: Path) -> None:
    """A model's vocabulary is often rounded up, and a model with random weights chooses from all of it."""
    tokenizer = Tokenizer(folder)
    stream = tokenizer.stream()
    ids = tokenizer.encode("to be", add_special_tokens=False)
    beyond = [tokenizer.vocab_size, tokenizer.vocab_size + 99]
    assert "".join(map(stream.push, [beyond[0], *ids, *beyond])) == "to be"
    assert tokenizer.decode([*ids, *beyond]) == "to be"
    assert tokenizer.token_text(beyond[0]) == ""


def test_a_chat_has_its_control_tokens_once(folder: Path, oracle: sentencepiece.SentencePieceProcessor) -> None:
    ids = Tokenizer(folder).encode_chat([{"role": "user", "content": "to be"}])
    assert ids == [oracle.bos_id(), *oracle.encode("[INST] to be [/INST]")]


def test_what_it_cannot_do_is_said(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json and no tokenizer\.model"):
        Tokenizer(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"no model")
    with pytest.raises(CheckpointError, match="is not a model that sentencepiece can read"):
        Tokenizer(tmp_path)
