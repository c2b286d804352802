"""Drafts from the text itself: what followed the last few tokens when they occurred before. Needs no torch.

Source: prompt lookup decoding, Saxena 2023, https://github.com/apoorvumang/prompt-lookup-decoding.
"""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf

from llmbench.reference_engine.sequence import Sequence

# Longest first: the longer the context that matches, the likelier the text goes on as it did.
NGRAM_SIZES = (4, 3, 2)


class NgramIndex:
    """Where each n-gram of one growing text occurred last."""

    def __init__(self) -> None:
        self._num_indexed = 0
        self._end_of: dict[tuple[int, ...], int] = {}

    def find(self, token_ids: SequenceOf[int]) -> int | None:
        """Position after the latest earlier occurrence of the text's last n-gram, n as large as possible.

        The text must begin with that of the call before.
        """
        # Up to the last token but one: the n-gram at the end would find itself.
        for end in range(self._num_indexed + 1, len(token_ids)):
            for size in NGRAM_SIZES:
                if size <= end:
                    self._end_of[tuple(token_ids[end - size : end])] = end
        self._num_indexed = max(self._num_indexed, len(token_ids) - 1)
        for size in NGRAM_SIZES:
            if size <= len(token_ids):
                found = self._end_of.get(tuple(token_ids[len(token_ids) - size :]))
                if found is not None:
                    return found
        return None


class NgramProposer:
    def __init__(self) -> None:
        self._indexes: dict[str, NgramIndex] = {}

    def has_work(self) -> bool:
        return False

    def propose(self, sequences: SequenceOf[Sequence]) -> None:
        for sequence in sequences:
            index = self._indexes.setdefault(sequence.request_id, NgramIndex())
            start = index.find(sequence.token_ids)
            sequence.draft_token_ids = (
                [] if start is None else continuation(sequence.token_ids, start, sequence.max_draft_tokens)
            )

    def forget(self, request_id: str) -> None:
        self._indexes.pop(request_id, None)


def continuation(token_ids: SequenceOf[int], start: int, num_tokens: int) -> list[int]:
    """So many tokens as they followed at `start`; past the end of the text, as the text repeats itself from there."""
    period = len(token_ids) - start
    return [token_ids[start + offset % period] for offset in range(num_tokens)]
