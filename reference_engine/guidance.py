"""The form of an answer as a grammar: JSON of a schema, a regular expression, one of several texts. Needs
llmbench[guided].

A grammar is text, as llguidance (https://github.com/guidance-ai/llguidance) reads it. It is tried before it is given
out, so that a form that is wrong, that no text has or that is too large is refused and not found out in mid-answer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from collections.abc import Sequence as SequenceOf
from functools import lru_cache
from typing import Any

from llmbench.reference_engine.errors import RequestError
from llmbench.reference_engine.form_trial import the_trial
from llmbench.reference_engine.grammar_problems import sentence

# Of a schema as JSON, of an expression, of all choices together, in UTF-8.
MAX_FORM_BYTES = 64 * 2**10

# Between two parts of a JSON text a model may write one space and no more: it could go on with them to its last token.
_JSON_OPTIONS = {"whitespace_pattern": "[ ]?"}


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
        raise RequestError(f"The JSON schema cannot be used: {sentence(str(error))}") from None
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


@lru_cache(maxsize=32)
def _tried(grammar: str, kind: str) -> str:
    """The same grammar. Raises RequestError if it cannot be read, or not be followed through one answer's beginning."""
    if (problem := the_trial.problem(grammar)) is not None:
        raise RequestError(f"The {kind} cannot be used: {problem}")
    return grammar
