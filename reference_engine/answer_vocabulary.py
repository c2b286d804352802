"""A model's tokens by the bytes that they add to an answer, as llguidance takes them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from llmbench.reference_engine.sentencepiece_model import SentencePieceModel
from llmbench.reference_engine.tokenizer import JsonModel

if TYPE_CHECKING:
    from llguidance import LLTokenizer


class AnswerVocabulary(NamedTuple):
    """`tokenizer` knows the tokens by the model's ids.

    Where `opening` [vocab_size] is given, a token that an answer begins with has the id there: its text is another one
    at the beginning. The library must not choose tokens by itself then, as it does where only one text fits.
    """

    tokenizer: LLTokenizer
    opening: npt.NDArray[np.int64] | None


def vocabulary_of_json(model: JsonModel, vocab_size: int, eos_token_ids: Sequence[int]) -> AnswerVocabulary:
    """Of a tokenizer.json, whose bytes the library finds by itself; not so what its decoder leaves out at the beginning
    of a text, such as the space before the first word."""
    from llguidance import LLTokenizer

    tokenizer = LLTokenizer(model.to_json(), n_vocab=vocab_size, eos_token=list(eos_token_ids) or None)
    usual = [b""] * vocab_size
    for token_id in range(model.vocab_size):
        text = tokenizer.decode_bytes([token_id])
        # An id that the tokenizer leaves out is written as a number.
        if not tokenizer.is_special_token(token_id) and text != b"<[%d]>" % token_id:
            usual[token_id] = text
    opening = _openings(model, usual)
    if opening == usual:
        return AnswerVocabulary(tokenizer, None)
    return _twofold(usual, opening, eos_token_ids or tokenizer.eos_tokens)


def vocabulary_of_pieces(model: SentencePieceModel, vocab_size: int, eos_token_ids: Sequence[int]) -> AnswerVocabulary:
    """Of a tokenizer.model."""
    usual = [model.piece_bytes(token_id) for token_id in range(vocab_size)]
    opening = _openings(model, usual)
    return _twofold(usual, opening, eos_token_ids or ([] if model.eos_id is None else [model.eos_id]))


@cache
def tokenizer_of_bytes() -> LLTokenizer:
    """A token for each byte, which is its id, and one, 256, that ends: for a form that is looked at without a model."""
    from llguidance import LLTokenizer, TokenizerWrapper

    tokens = _SingleBytes([*(bytes([byte]) for byte in range(256)), b""], 256)
    return LLTokenizer(TokenizerWrapper(tokens), eos_token=[256])


def _openings(model: JsonModel | SentencePieceModel, usual: Sequence[bytes]) -> list[bytes]:
    """What each token is shown as where a text begins."""
    spaced = [token_id for token_id, text in enumerate(usual) if text.startswith(b" ")]
    word = next((token_id for token_id in spaced if usual[token_id].strip()), None)
    if word is None or model.decode([word]).encode() == usual[word]:
        return list(usual)
    opening = list(usual)
    for token_id in spaced:
        text = model.decode([token_id])
        # Of spaces alone, those of the next token may be left out too: then it is none to begin with.
        is_all = model.decode([token_id, word]).encode() == text.encode() + usual[word]
        opening[token_id] = text.encode() if is_all else b""
    return opening


def _twofold(usual: list[bytes], opening: list[bytes], eos_token_ids: Sequence[int]) -> AnswerVocabulary:
    """Tokens without bytes fit nowhere; one with other bytes at the beginning is known a second time by those."""
    from llguidance import LLTokenizer, TokenizerWrapper

    differs = np.array([one != other for one, other in zip(usual, opening, strict=True)], dtype=np.bool_)
    tokens = _ByteTokens(usual + opening, eos_token_ids[0] if eos_token_ids else None)
    tokenizer = LLTokenizer(TokenizerWrapper(tokens), eos_token=list(eos_token_ids) or None)
    return AnswerVocabulary(tokenizer, np.arange(len(usual)) + len(usual) * differs)


class _ByteTokens:
    """What llguidance's TokenizerWrapper reads of a tokenizer."""

    bos_token_id = None

    def __init__(self, tokens: list[bytes], eos_token_id: int | None) -> None:
        self.tokens = tokens
        self.eos_token_id = eos_token_id

    def __call__(self, text: bytes) -> list[int]:
        """Asked for where the library may choose tokens by itself, and when it looks whether bytes are taken."""
        return []


class _SingleBytes(_ByteTokens):
    def __call__(self, text: bytes) -> list[int]:
        return list(text)
