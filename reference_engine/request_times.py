"""How long a request waited and was worked on, by the engine's own clock. Needs no torch."""

from __future__ import annotations

from typing import NamedTuple


class RequestTimes(NamedTuple):
    """In ns: in the queue, until it first got KV blocks; from then to its first token; and from there to its last.

    A wait after a preemption counts where it came: to the prefill before the first token, else to the decoding.
    """

    queued_ns: int
    prefill_ns: int
    decode_ns: int


class RequestStamps:
    """When a request came, was first given KV blocks, and got its first token; the beams of a search share theirs."""

    __slots__ = ("_admitted_ns", "_first_token_ns", "arrival_ns")

    def __init__(self) -> None:
        self.arrival_ns = 0
        self._admitted_ns: int | None = None
        self._first_token_ns: int | None = None

    def admitted(self, now_ns: int) -> None:
        """It has KV blocks now, for the first time or again."""
        if self._admitted_ns is None:
            self._admitted_ns = now_ns

    def got_tokens(self, now_ns: int) -> RequestTimes:
        """It has got its first tokens, or further ones."""
        assert self._admitted_ns is not None
        if self._first_token_ns is None:
            self._first_token_ns = now_ns
        return RequestTimes(
            self._admitted_ns - self.arrival_ns,
            self._first_token_ns - self._admitted_ns,
            now_ns - self._first_token_ns,
        )
