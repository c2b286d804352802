"""Which tokens may come next in an answer that has a form: a grammar of guidance.py met with a model's tokens."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Collection
from collections.abc import Sequence as SequenceOf
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt

from llmbench.reference_engine.answer_vocabulary import AnswerVocabulary, vocabulary_of_json, vocabulary_of_pieces
from llmbench.reference_engine.errors import RequestError
from llmbench.reference_engine.grammar_problems import parser_limits, problem_of
from llmbench.reference_engine.sentencepiece_model import SentencePieceModel
from llmbench.reference_engine.tokenizer import Tokenizer

# Compiled grammars that are kept for requests to come. A large one takes some 10 MiB.
MAX_KEPT = 16


class GuideMaker:
    """Guides for one model, whose logits are `vocab_size` wide and whose tokenizer lies in `folder`.

    A grammar is compiled in a thread of its own, one at a time, so that a large one keeps nobody waiting who has
    nothing to do with it: llguidance lets go of the interpreter's lock meanwhile.
    """

    def __init__(self, folder: Path, vocab_size: int, eos_token_ids: Collection[int]) -> None:
        self._folder = folder
        self._vocab_size = vocab_size
        self._eos_token_ids = sorted(eos_token_ids)
        self._compiler = ThreadPoolExecutor(max_workers=1, thread_name_prefix="guides")
        self._kept: OrderedDict[str, Future[Guide]] = OrderedDict()  # by grammar, the one asked for last at the end

    def compile(self, grammar: str) -> Future[Guide]:
        """A guide at its beginning, to be copied for each answer; the same one for as long as it is kept.

        Its result is a RequestError for a grammar that cannot be followed with this model's tokens.
        """
        compiling = self._kept.pop(grammar, None)
        if compiling is None or compiling.cancelled():
            compiling = self._compiler.submit(self._compile, grammar)
        self._kept[grammar] = compiling
        if len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)
        return compiling

    def guide(self, grammar: str) -> Guide:
        """One answer's guide, when it is there. Raises RequestError as above."""
        return self.compile(grammar).result().copy()

    def close(self) -> None:
        """Returns when the grammar that is being compiled is done; those that wait are given up."""
        self._compiler.shutdown(cancel_futures=True)

    def _compile(self, grammar: str) -> Guide:
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
            vocabulary.tokenizer,
            grammar if self._opening is None else _unforced(grammar),
            log_level=0,
            limits=parser_limits(),
        )
        self._vocab_size = vocab_size
        begins = self._mask(is_first=True).any()
        # A lexer that has outgrown its limits says so when it is asked again.
        self._matcher.compute_bitmask()
        if (problem := problem_of(self._matcher)) is not None:
            raise RequestError(f"The answer's form cannot be used: {problem}")
        if not begins:
            raise RequestError("The answer's form cannot be used: no token of this model is how it begins.")

    def copy(self) -> Guide:
        """For an answer of its own, from here on."""
        copied = copy(self)
        copied._matcher = self._matcher.deep_copy()
        return copied

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
    def failure(self) -> str | None:
        """Why nobody knows what may follow, as the end of a sentence that quotes nothing; None while somebody does."""
        if not self._matcher.is_error():
            return None
        if self._matcher.get_error().startswith("NoExtension"):
            return "no text goes on from there."
        return "its grammar has grown too large."


def _unforced(grammar: str) -> str:
    """The same grammar; where only one text fits, the model still chooses the tokens that spell it."""
    (only,) = json.loads(grammar)["grammars"]
    lark = only.get("lark_grammar") or f"start: %json {json.dumps(only['json_schema'])}"
    return f'%llguidance {{"no_forcing": true}}\n{lark}'
