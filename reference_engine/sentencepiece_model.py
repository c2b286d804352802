"""A checkpoint's tokenizer.model, through the sentencepiece library; needs the extra llmbench[sentencepiece]."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from llmbench.reference_engine.errors import CheckpointError
from llmbench.reference_engine.token_bytes import NO_CHARACTER

# What stands in a piece for a space.
_SPACE = "\u2581"


class SentencePieceModel:
    """Text to token ids and back. Control tokens (<s>, </s>) are read where a text spells them out, as in a chat.

    `add_bos` and `add_eos`: what a prompt gets around it. Raises CheckpointError for an unreadable file.
    """

    # The library's own normalization may drop text, and does not say whether it does.
    max_token_chars: int | None = None

    def __init__(self, path: Path, *, add_bos: bool, add_eos: bool) -> None:
        try:
            from sentencepiece import SentencePieceProcessor
        except ImportError:
            raise CheckpointError(
                f'{path} needs the sentencepiece library: pip install "llmbench[sentencepiece]"'
            ) from None
        try:
            self._model = SentencePieceProcessor(model_file=str(path))
        except (RuntimeError, OSError) as error:
            raise CheckpointError(f"{path} is not a model that sentencepiece can read: {error}") from None
        self.vocab_size = int(self._model.vocab_size())
        self.eos_id: int | None = self._model.eos_id() if self._model.eos_id() >= 0 else None
        self._before = [self._model.bos_id()] if add_bos and self._model.bos_id() >= 0 else []
        self._after = [self._model.eos_id()] if add_eos and self._model.eos_id() >= 0 else []
        self._controls = {self._piece(id_): id_ for id_ in range(self.vocab_size) if self._model.is_control(id_)}
        self._control = re.compile(f"({'|'.join(map(re.escape, self._controls))})") if self._controls else None
        self._any_text = self._encode("a")

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        if self._control is None:
            ids = self._encode(text)
        else:
            parts = self._control.split(text)
            ids = [id_ for part in parts if part for id_ in self._part(part)]
        return [*self._before, *ids, *self._after] if add_special_tokens else ids

    def decode(self, ids: Sequence[int]) -> str:
        """Control tokens left out, and the ids that a padded vocabulary has beyond the last piece; bytes that make no
        character show as U+FFFD."""
        return str(self._model.decode([id_ for id_ in ids if id_ < self.vocab_size]))

    def token_text(self, token_id: int) -> str:
        is_control = token_id < self.vocab_size and self._model.is_control(token_id)
        if is_control:
            return self._piece(token_id)
        return self.decode([*self._any_text, token_id])[len(self.decode(self._any_text)) :]

    @property
    def has_every_byte(self) -> bool:
        """There are pieces for all bytes, so that any text is a sequence of tokens."""
        return sum(map(self._model.is_byte, range(self.vocab_size))) == 256

    def piece_bytes(self, token_id: int) -> bytes:
        """What a token adds to the text of others before it; nothing for one that stands for no text."""
        if token_id >= self.vocab_size or self._model.is_control(token_id) or self._model.is_unused(token_id):
            return b""
        piece = self._piece(token_id)
        if self._model.is_byte(token_id):
            return bytes([int(piece.removeprefix("<0x").removesuffix(">"), 16)])
        return b"" if self._model.is_unknown(token_id) else piece.replace(_SPACE, " ").encode()

    def token_bytes(self, token_id: int) -> bytes:
        text = self.token_text(token_id)
        return self.piece_bytes(token_id) if NO_CHARACTER in text else text.encode()

    def stream(self, before: Sequence[int]) -> SentencePieceStream:
        return SentencePieceStream(self, before)

    def _part(self, text: str) -> list[int]:
        control = self._controls.get(text)
        return self._encode(text) if control is None else [control]

    def _encode(self, text: str) -> list[int]:
        return list(self._model.encode(text))

    def _piece(self, token_id: int) -> str:
        return str(self._model.id_to_piece(token_id))


class SentencePieceStream:
    """Token ids one by one to their text. A token's text depends on the ones before it: the first loses its space, and
    bytes become a character together; so each is decoded behind the last ones that were shown. `before` is what the
    answer's text stands behind."""

    def __init__(self, model: SentencePieceModel, before: Sequence[int] = ()) -> None:
        self._model = model
        self._shown = list(before)
        self._pending: list[int] = []

    def push(self, token_id: int) -> str:
        """The text that is settled by this token: "" while a character's bytes are not all there."""
        self._pending.append(token_id)
        before = self._model.decode(self._shown)
        text = self._model.decode(self._shown + self._pending)
        if text.endswith(NO_CHARACTER):
            return ""
        self._shown, self._pending = self._pending if text != before else self._shown + self._pending, []
        return text[len(before) :]
