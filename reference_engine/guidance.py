"""The form of an answer as a grammar: JSON of a schema, a regular expression, one of several texts. Needs
llmbench[guided].

A grammar is text, as llguidance (https://github.com/guidance-ai/llguidance) reads it. It is tried before it is given
out, so that a form that is wrong, that no text has or that is too large is refused and not found out in mid-answer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from collections.abc import Sequence as SequenceOf
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from llmbench.reference_engine.answer_vocabulary import tokenizer_of_bytes
from llmbench.reference_engine.errors import RequestError

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits

# Of a schema as JSON, of an expression, of all choices together, in UTF-8.
MAX_FORM_BYTES = 64 * 2**10

# Between two parts of a JSON text a model may write one space and no more: it could go on with them to its last token.
_JSON_OPTIONS = {"whitespace_pattern": "[ ]?"}

# A form is tried on so many bytes of one answer that it allows.
_NUM_TRIED_BYTES = 8


def json_grammar(schema: Mapping[str, Any]) -> str:
    """JSON text that is valid under `schema`. Raises RequestError for a schema that is wrong, too large or not
    supported: no keyword is silently ignored."""
    from llguidance import LLMatcher

    # The library's own options, which would change what JSON looks like, or have it pass over keywords.
    if "x-guidance" in schema:
        raise RequestError("The JSON schema cannot be used: x-guidance is no keyword of JSON Schema; leave it out.")
    try:
        _check_size("JSON schema", json.dumps(schema, ensure_ascii=False, separators=(",", ":")))
        grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=_JSON_OPTIONS)  # type: ignore[arg-type]
    except (ValueError, RecursionError) as error:
        raise RequestError(f"The JSON schema cannot be used: {_sentence(str(error))}") from None
    return _tried(grammar, "JSON schema")


def regex_grammar(pattern: str) -> str:
    """Text that `pattern` matches from beginning to end; syntax is that of Rust's regex crate. Raises RequestError."""
    from llguidance import LLMatcher

    _check_size("regular expression", pattern)
    return _tried(LLMatcher.grammar_from_regex(pattern), "regular expression")


def choice_grammar(choices: SequenceOf[str]) -> str:
    """One of these texts. Raises RequestError."""
    from llguidance import LLMatcher

    _check_size("list of choices", *choices)
    expression = "|".join(f"({_escaped(choice)})" for choice in choices)
    return _tried(LLMatcher.grammar_from_regex(expression), "list of choices")


def _escaped(text: str) -> str:
    return "".join(f"\\x{{{ord(character):x}}}" for character in text)


def _check_size(kind: str, *texts: str) -> None:
    num_bytes = sum(len(text.encode(errors="surrogatepass")) for text in texts)
    if num_bytes > MAX_FORM_BYTES:
        raise RequestError(
            f"The {kind} cannot be used: it has {num_bytes} bytes, and {MAX_FORM_BYTES} are the most that are read."
        )


@cache
def parser_limits() -> LLParserLimits:
    """How large a grammar may grow, so that the tokens that may come next are found in at most some 15 ms.

    Of the library's limits, the one on what its lexer is made of is set: by default it is ten times as high, and
    `(a{1000}){1000}` takes 1.3 s to begin with and 0.15 s for each token.
    """
    from llguidance import LLParserLimits

    return LLParserLimits(initial_lexer_fuel=100_000, verbose_errors=False)


def _tried(grammar: str, kind: str) -> str:
    """The same grammar. Raises RequestError if it cannot be read, or not be followed through one answer's beginning."""
    from llguidance import LLMatcher

    matcher = LLMatcher(tokenizer_of_bytes(), grammar, log_level=0, limits=parser_limits())
    for _ in range(_NUM_TRIED_BYTES):
        allowed = allowed_ids(matcher)
        if (problem := problem_of(matcher)) is not None:
            raise RequestError(f"The {kind} cannot be used: {problem}")
        # Where an object's members or an array's items begin, a grammar is at its widest.
        following = sorted((byte for byte in allowed if byte < 256), key=lambda byte: (byte not in b'{["', byte))
        if not following:
            break
        matcher.consume_token(following[0])
    return grammar


def problem_of(matcher: LLMatcher) -> str | None:
    """Why the grammar cannot be followed, as the end of a sentence; None while it can be."""
    if not matcher.is_error():
        return None
    error = matcher.get_error().removesuffix("<non-verbose/>").rstrip()
    if error.startswith("NoExtension"):
        return "it leads to where no text goes on, as a schema does that refers to nothing but itself."
    if any(sign in error.lower() for sign in _SIGNS_OF_SIZE):
        cause = _sentence(error.split(";")[0]).removesuffix(".")
        return f"it is too large to be followed; allow less, or repeat less often ({cause})."
    return _sentence(error)


# How the library's words begin, or go on, where a grammar has met one of its limits.
_SIGNS_OF_SIZE = ("too many", "too big", "too large", "precomputation failed", "max is", "fuel")


def allowed_ids(matcher: LLMatcher) -> list[int]:
    """The tokens that may come next; an end-of-sequence token where nothing or no more need come."""
    bits = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
    ids: list[int] = np.flatnonzero(np.unpackbits(bits, bitorder="little")).tolist()
    return ids


def _sentence(problem: str) -> str:
    # Line breaks and drawings of where in the grammar it is are of no use in a message.
    return " ".join(problem.split())[:300].rstrip(".") + "."
