"""What a source of drafts provides, and how long drafts should be."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from typing import Protocol

from llmbench.reference_engine.sequence import Sequence


class Proposer(Protocol):
    def has_work(self) -> bool:
        """True while `propose` does something without any sequence too: compaction of a KV cache of its own."""
        ...

    def propose(self, sequences: SequenceOf[Sequence]) -> None:
        """Set `draft_token_ids` of these decoding sequences: at most `max_draft_tokens`, or none for lack of an idea.

        Modifies nothing else of them.
        """
        ...

    def forget(self, request_id: str) -> None:
        """The request ended or was preempted: what is kept for it is not needed now. It may be unknown."""
        ...


def next_draft_limit(limit: int, num_drafts: int, num_accepted: int, highest: int) -> int:
    """How many drafts to ask for after so many of the last ones were accepted.

    Two more if all were, one less if not: the heuristic of transformers' assisted generation. At least 1, or a request
    that was hard to guess for a while would never be tried again.
    """
    if num_accepted == num_drafts:
        return min(limit + 2, highest)
    return max(limit - 1, 1)
