"""Which answers' texts are kept: so many as a budget of bytes allows, the same requests of every engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from llmbench.harness.plan import Trial
from llmbench.results.answers import AnswerJournal, KeptAnswer
from llmbench.results.records import RequestRecord

DEFAULT_BYTES = 64 * 2**20
# English has about 4 characters to a token; other scripts take more bytes, and code in them more tokens.
_BYTES_PER_TOKEN = 6
# How many trials a run of unknown length is taken to have.
_ASSUMED_TRIALS = 64


class KeptAnswers:
    """Appends answers to the journal at `path`, at most `budget_bytes` of text in all, and the ids of its tokens.

    Each of the `num_trials` trials (None: nobody knows) has an equal share. Within it every so many requests are
    chosen by their place in the plan, which is the same for all engines: what is kept of one is kept of the others.
    `tokenize` gives the ids of a text, for engines that do not tell theirs; None where no tokenizer is at hand.
    """

    def __init__(
        self, path: Path, budget_bytes: int, num_trials: int | None, tokenize: Callable[[str], list[int]] | None = None
    ) -> None:
        self._tokenize = tokenize
        self._share_bytes = budget_bytes // max(1, num_trials or _ASSUMED_TRIALS)
        self._journal = AnswerJournal(path) if self._share_bytes else None
        self._left_bytes = 0
        self._chosen: frozenset[str] = frozenset()

    def begin(self, trial: Trial) -> None:
        """Choose what to keep of `trial`."""
        self._left_bytes = self._share_bytes
        expected = _BYTES_PER_TOKEN * sum(request.generation.max_tokens for request in trial.requests)
        step = max(1, -(-expected // max(1, self._share_bytes)))
        self._chosen = frozenset(request.request_id for request in trial.requests[::step])

    def add(self, planned_id: str, record: RequestRecord, text: str, token_ids: Sequence[int] | None = None) -> None:
        """Keep the answer to `record`, an attempt of the planned request, if it was chosen and there is room."""
        size = len(text.encode("utf-8", "replace"))
        if self._journal is None or planned_id not in self._chosen or record.status != "ok" or size > self._left_bytes:
            return
        self._left_bytes -= size
        retokenised = None if self._tokenize is None else self._tokenize(text)
        self._journal.append(KeptAnswer(record.request_id, text, token_ids, retokenised))

    def close(self) -> None:
        if self._journal is not None:
            self._journal.close()
