"""How large a grammar of llguidance may be, and what is said of one that is too large, or wrong."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from llmbench.reference_engine.answer_vocabulary import tokenizer_of_bytes

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits

# A form is tried on so many bytes of one answer that it allows.
_NUM_TRIED_BYTES = 8

# How the library's words begin, or go on, where a grammar has met one of its limits.
_SIGNS_OF_SIZE = ("too many", "too big", "too large", "precomputation failed", "max is", "fuel")


@cache
def parser_limits() -> LLParserLimits:
    """How large a grammar may grow, so that the tokens that may come next are found in some 30 ms at most.

    Of the library's limits, the one on what its lexer is made of is set: by default it is ten times as high, and
    `(a{1000}){1000}` takes 1.3 s to begin with and 0.15 s for each token.
    """
    from llguidance import LLParserLimits

    return LLParserLimits(initial_lexer_fuel=100_000, verbose_errors=False)


def problem_at_the_beginning(grammar: str) -> str | None:
    """Why the grammar cannot be read or followed, as the end of a sentence. For some it never returns."""
    from llguidance import LLMatcher

    matcher = LLMatcher(tokenizer_of_bytes(), grammar, log_level=0, limits=parser_limits())
    for _ in range(_NUM_TRIED_BYTES):
        allowed = _allowed_ids(matcher)
        if (problem := problem_of(matcher)) is not None:
            return problem
        # Where an object's members or an array's items begin, a grammar is at its widest.
        following = sorted((byte for byte in allowed if byte < 256), key=lambda byte: (byte not in b'{["', byte))
        if not following:
            break
        matcher.consume_token(following[0])
    return None


def problem_of(matcher: LLMatcher) -> str | None:
    """Why the grammar cannot be followed, as the end of a sentence; None while it can be."""
    if not matcher.is_error():
        return None
    error = matcher.get_error().removesuffix("<non-verbose/>").rstrip()
    if error.startswith("NoExtension"):
        return "it leads to where no text goes on, as a schema does that refers to nothing but itself."
    if any(sign in error.lower() for sign in _SIGNS_OF_SIZE):
        cause = sentence(error.split(";")[0]).removesuffix(".")
        return f"it is too large to be followed; allow less, or repeat less often ({cause})."
    return sentence(error)


def _allowed_ids(matcher: LLMatcher) -> list[int]:
    """The tokens that may come next; an end-of-sequence token where nothing or no more need come."""
    bits = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
    ids: list[int] = np.flatnonzero(np.unpackbits(bits, bitorder="little")).tolist()
    return ids


def sentence(problem: str) -> str:
    """What the library says, on one line."""
    # Line breaks and drawings of where in the grammar it is are of no use in a message.
    return " ".join(problem.split())[:300].rstrip(".") + "."
