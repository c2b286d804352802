"""Random text with an exact number of tokens, for any tokenizer.

Tokens drawn at random do not survive decoding and encoding: neighbours merge, and pieces of characters turn into
replacement marks. So text is put together from whole words that were seen to cost one token each, encoded, and mended
until the count is exact; nothing is returned that was not counted.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from llmbench.workloads.errors import WorkloadError
from llmbench.workloads.tokenizer import TextTokenizer

if TYPE_CHECKING:
    import numpy as np

MAX_CANDIDATES = 8192
MAX_WORDS = 2048
MIN_WORDS = 64
MAX_TRIES = 64
TRIES_FOR_A_CLEAN_BORDER = 8
# Last resorts to gain a single token: with and without a blank, a letter, a digit or a mark nearly always does.
FILLERS = tuple(f"{blank}{mark}" for mark in ".,;:!?-qzxj7394aeiotnsr" for blank in ("", " "))


@lru_cache(maxsize=4)
def exact_text(tokenizer: TextTokenizer) -> ExactText:
    """The writer for a tokenizer; kept, because looking through the vocabulary takes a moment."""
    return ExactText(tokenizer)


class ExactText:
    """Writes text of exact token counts. Special tokens are not counted here: they are the caller's to subtract."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer
        self._words = _usable_words(tokenizer)

    def count(self, text: str) -> int:
        return len(self._tokenizer.encode(text))

    def extend(self, head: str, num_tokens: int, generator: np.random.Generator) -> str:
        """`head` followed by random words, `num_tokens` tokens in all, the first of which are head's.

        Some tokenizers merge head's last letters with whatever follows; only there may the tokens at the border differ.
        Raises WorkloadError when `head` is longer already, or when this tokenizer gives no such text.
        """
        head_ids = self._tokenizer.encode(head) if head else []
        if len(head_ids) == num_tokens:
            return head
        if len(head_ids) > num_tokens:
            raise WorkloadError(f"a text of {num_tokens} tokens cannot begin with one of {len(head_ids)} tokens")
        merged: str | None = None
        for attempt in range(MAX_TRIES):
            text = self._attempt(head, len(head_ids), num_tokens, generator)
            if text is not None and self._tokenizer.encode(text)[: len(head_ids)] == head_ids:
                return text
            merged = merged or text
            if merged is not None and attempt >= TRIES_FOR_A_CLEAN_BORDER:
                return merged
        raise WorkloadError(
            f"no text with exactly {num_tokens} tokens was found in {MAX_TRIES} tries with this tokenizer; "
            "ask for another length, or set `tokenizer` to the one that the model uses"
        )

    def _attempt(self, head: str, num_head: int, num_tokens: int, generator: np.random.Generator) -> str | None:
        num_words = num_tokens - num_head
        picks = generator.integers(0, len(self._words), size=num_words)
        words = [self._words[int(pick)] for pick in picks]
        # Where words cost more than one token each, fewer of them fit: scale down by the price seen, then mend.
        while True:
            text = " ".join([head, *words] if head else words)
            count = self.count(text)
            if count == num_tokens:
                return text
            if count < num_tokens:
                return self._fill(text, count, num_tokens, generator)
            if not words:
                return None
            price = (count - num_head) / len(words)
            words = words[: min(len(words) - 1, int((num_tokens - num_head) / price))]

    def _fill(self, text: str, count: int, num_tokens: int, generator: np.random.Generator) -> str | None:
        """`text` with small pieces added until it counts `num_tokens`; None when no piece fits any more."""
        while count < num_tokens:
            for pick in generator.permutation(len(FILLERS)):
                longer = text + (FILLERS[int(pick)] if text else FILLERS[int(pick)].strip())
                longer_count = self.count(longer)
                if count < longer_count <= num_tokens:
                    text, count = longer, longer_count
                    break
            else:
                return None
        return text


def _usable_words(tokenizer: TextTokenizer) -> tuple[str, ...]:
    """Words to write with, in the order of their ids: those that cost one token after a blank, if there are enough."""
    step = max(1, tokenizer.vocab_size // MAX_CANDIDATES)
    candidates: dict[str, None] = {}
    for token in range(0, tokenizer.vocab_size, step):
        word = tokenizer.decode([token]).strip()
        if word.isascii() and word.isalpha():
            candidates[word] = None
    cheap: list[str] = []
    for word in candidates:
        if len(tokenizer.encode(f"{word} {word} {word}")) - len(tokenizer.encode(f"{word} {word}")) == 1:
            cheap.append(word)
            if len(cheap) == MAX_WORDS:
                break
    if len(cheap) >= MIN_WORDS:
        return tuple(cheap)
    words = cheap + [word for word in candidates if word not in set(cheap)]
    if not words:
        raise WorkloadError("this tokenizer has no token that is a word of letters, so no synthetic prompt can be made")
    return tuple(words[:MAX_WORDS])
