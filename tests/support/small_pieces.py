"""A small tokenizer.model, as checkpoints of Llama 2 and Mistral have it."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import sentencepiece

from llmbench.reference_engine.models.synthetic_text import lines


def write_pieces(
    folder: Path, sentences: Iterable[str] | None = None, *, vocab_size: int = 420, **options: Any
) -> None:
    """Train it into `folder`, in place of a tokenizer.json: on made-up sentences if none are given, with bytes where no
    piece fits. `options` are the trainer's."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines(300, 80, seed=2) if sentences is None else sentences),
        model_writer=model,
        vocab_size=vocab_size,
        minloglevel=2,
        **{"byte_fallback": True, **options},
    )
    (folder / "tokenizer.json").unlink(missing_ok=True)
    (folder / "tokenizer.model").write_bytes(model.getvalue())
