"""Answers of a given form: JSON of a schema, a regular expression, one of several texts. Needs llmbench[guided].

A form is a grammar of llguidance (https://github.com/guidance-ai/llguidance), as text. While an answer grows, its guide
says which tokens may come next; the sampler takes the others' probability away.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from collections.abc import Sequence as SequenceOf
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llmbench.reference_engine.answer_vocabulary import AnswerVocabulary, vocabulary_of_json, vocabulary_of_pieces
from llmbench.reference_engine.errors import RequestError
from llmbench.reference_engine.sentencepiece_model import SentencePieceModel
from llmbench.reference_engine.tokenizer import Tokenizer

# Between two parts of a JSON text a model may write one space and no more: it could go on with them to its last token.
_JSON_OPTIONS = {"whitespace_pattern": "[ ]?"}


def json_grammar(schema: Mapping[str, Any]) -> str:
    """JSON text that is valid under `schema`. Raises RequestError for a schema that is wrong or that is not supported:
    no keyword is silently ignored."""
    from llguidance import LLMatcher

    try:
        grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=_JSON_OPTIONS)  # type: ignore[arg-type]
    except (ValueError, RecursionError) as error:
        raise RequestError(f"The JSON schema cannot be used: {_sentence(str(error))}") from None
    return _checked(grammar, "JSON schema")


def regex_grammar(pattern: str) -> str:
    """Text that `pattern` matches from beginning to end; syntax is that of Rust's regex crate. Raises RequestError."""
    from llguidance import LLMatcher

    return _checked(LLMatcher.grammar_from_regex(pattern), "regular expression")


def choice_grammar(choices: SequenceOf[str]) -> str:
    """One of these texts. Raises RequestError."""
    return regex_grammar("|".join(f"({_escaped(choice)})" for choice in choices))


def _escaped(text: str) -> str:
    return "".join(f"\\x{{{ord(character):x}}}" for character in text)


def _checked(grammar: str, kind: str) -> str:
    from llguidance import LLMatcher

    problem = LLMatcher.validate_grammar(grammar)
    if problem and not problem.startswith("WARNING"):
        raise RequestError(f"The {kind} cannot be used: {_sentence(problem)}")
    return grammar


def _unforced(grammar: str) -> str:
    """The same grammar; where only one text fits, the model still chooses the tokens that spell it."""
    (only,) = json.loads(grammar)["grammars"]
    lark = only.get("lark_grammar") or f"start: %json {json.dumps(only['json_schema'])}"
    return f'%llguidance {{"no_forcing": true}}\n{lark}'


def _sentence(problem: str) -> str:
    # Line breaks and drawings of where in the grammar it is are of no use in a message.
    return " ".join(problem.split())[:300].rstrip(".") + "."


class GuideMaker:
    """Guides for one model, whose logits are `vocab_size` wide and whose tokenizer lies in `folder`."""

    def __init__(self, folder: Path, vocab_size: int, eos_token_ids: Collection[int]) -> None:
        self._folder = folder
        self._vocab_size = vocab_size
        self._eos_token_ids = sorted(eos_token_ids)

    def guide(self, grammar: str) -> Guide:
        """One answer's guide. Raises RequestError for a grammar that cannot be followed with this model's tokens."""
        return Guide(self._vocabulary, grammar, self._vocab_size)

    @cached_property
    def _vocabulary(self) -> AnswerVocabulary:
        if find_spec("llguidance") is None:
            raise RequestError('Guided answers need llguidance: pip install "llmbench[guided]".')
        model = Tokenizer(self._folder).model
        if not isinstance(model, SentencePieceModel):
            try:
                return vocabulary_of_json(model, self._vocab_size, self._eos_token_ids)
            except ValueError as error:
                raise RequestError(f"Answers of a given form cannot be had with {self._folder}: {error}.") from None
        if not model.has_every_byte:
            raise RequestError(
                f"An answer of a given form needs a token for every byte, which {self._folder / 'tokenizer.model'} "
                "does not have: it was trained without byte_fallback."
            )
        return vocabulary_of_pieces(model, self._vocab_size, self._eos_token_ids)


class Guide:
    """The grammar and how far an answer has come in it."""

    def __init__(self, vocabulary: AnswerVocabulary, grammar: str, vocab_size: int) -> None:
        from llguidance import LLMatcher

        self._opening = vocabulary.opening
        self._is_beginning = True
        self._num_known = vocabulary.tokenizer.vocab_size
        self._matcher = LLMatcher(
            vocabulary.tokenizer, grammar if self._opening is None else _unforced(grammar), log_level=0
        )
        self._vocab_size = vocab_size
        if self._matcher.is_error():
            raise RequestError(f"The answer's form cannot be used: {_sentence(self._matcher.get_error())}")
        if self._opening is not None and not self._mask(is_first=True).any():
            raise RequestError("The answer's form cannot be used: no token of this model is how it begins.")

    def allowed(self, ahead: SequenceOf[int]) -> npt.NDArray[np.bool_] | None:
        """Which tokens may follow the answer so far and those `ahead`, [vocab_size]; None if those may not."""
        taken = self._matcher.try_consume_tokens(self._known(ahead)) if ahead else 0
        mask = None
        if taken == len(ahead):
            mask = self._mask(is_first=self._is_beginning and not ahead)
        if taken:
            self._matcher.rollback(taken)
        return mask

    def advance(self, token_id: int) -> None:
        """The answer has grown by this token, an allowed one."""
        self._matcher.consume_token(self._known([token_id])[0])
        self._is_beginning = False

    def _mask(self, is_first: bool) -> npt.NDArray[np.bool_]:
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        known = np.unpackbits(bits, count=self._num_known, bitorder="little").astype(np.bool_)
        return known[self._opening] if is_first and self._opening is not None else known[: self._vocab_size]

    def _known(self, token_ids: SequenceOf[int]) -> list[int]:
        """The library's ids of tokens that the answer goes on with."""
        if self._opening is None or not self._is_beginning:
            return list(token_ids)
        return [int(self._opening[token_ids[0]]), *token_ids[1:]]

    @property
    def is_complete(self) -> bool:
        """Nothing can follow any more."""
        return bool(self._matcher.is_stopped())

    @property
    def has_failed(self) -> bool:
        """The grammar has outgrown the library's limits in mid-answer: nobody knows what may follow."""
        return bool(self._matcher.is_error())
