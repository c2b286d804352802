"""A SentencePiece model's tokens as llguidance wants them: by their bytes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from llmbench.reference_engine.sentencepiece_model import SentencePieceModel


class PieceVocabulary:
    """What llguidance's TokenizerWrapper reads.

    The bytes of a token may be others where a text begins: "▁to" is shown as "to" there and as " to" elsewhere. Such a
    token is in `tokens` a second time, vocab_size places on; `opening` [vocab_size] has the place of each token's bytes
    at the beginning. Tokens that stand for no text, and ids beyond the model's pieces, have no bytes and never fit.
    """

    def __init__(self, model: SentencePieceModel, vocab_size: int) -> None:
        usual = [model.piece_bytes(token_id) for token_id in range(vocab_size)]
        first = [model.opening_bytes(token_id) for token_id in range(vocab_size)]
        self.tokens = usual + first
        differs = np.array([one != other for one, other in zip(usual, first, strict=True)], dtype=np.bool_)
        self.opening: npt.NDArray[np.int64] = np.arange(vocab_size) + vocab_size * differs
        self.eos_token_id = model.eos_id
        self.bos_token_id = None
        self.special_token_ids: list[int] = []
        self._model = model

    def __call__(self, text: bytes) -> list[int]:
        """Asked for where a grammar lets the library write a text by itself, which ours do not."""
        return self._model.encode(text.decode(), add_special_tokens=False)
