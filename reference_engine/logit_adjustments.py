"""What a request changes about the model's logits before a token is chosen: bias, penalties, no end too early, form."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from collections.abc import Sequence as SequenceOf
from typing import NamedTuple

import numpy as np
import torch

from llmbench.reference_engine.sampling import SamplingParams
from llmbench.reference_engine.sequence import Sequence

_LARGEST = torch.finfo(torch.float32).max


class Changes(NamedTuple):
    """What a request changes alike at every token: ids [n] int64 and biases [n] float32, on the logits' device."""

    biased_token_ids: torch.Tensor
    biases: torch.Tensor
    ending_token_ids: torch.Tensor

    @classmethod
    def of(cls, params: SamplingParams, eos_token_ids: Collection[int]) -> Changes:
        ending = {*params.stop_token_ids, *(() if params.ignore_eos else eos_token_ids)}
        return cls(
            torch.tensor(list(params.logit_bias), dtype=torch.int64),
            torch.tensor(list(params.logit_bias.values()), dtype=torch.float32),
            torch.tensor(list(ending), dtype=torch.int64),
        )


class Row(NamedTuple):
    """Where a token is chosen: after the sequence's own tokens and those `ahead`, drafts taken for granted."""

    sequence: Sequence
    ahead: SequenceOf[int]

    @property
    def num_output_tokens(self) -> int:
        return self.sequence.num_output_tokens + len(self.ahead)


def adjust(logits: torch.Tensor, rows: SequenceOf[Row], eos_token_ids: Collection[int]) -> torch.Tensor:
    """logits [n, vocab_size] float32 as the rows' requests want them; the same tensor, unmodified, if none does.

    In this order: logit_bias, repetition penalty, presence and frequency penalties, min_tokens.
    """
    changed = [index for index, row in enumerate(rows) if _is_adjusted(row)]
    if not changed:
        return logits
    logits = logits.clone()
    for index in changed:
        _adjust_row(logits[index], rows[index], eos_token_ids)
    return logits


def _is_adjusted(row: Row) -> bool:
    params = row.sequence.params
    return params.has_penalties or bool(params.logit_bias) or row.num_output_tokens < params.min_tokens


def _adjust_row(logits: torch.Tensor, row: Row, eos_token_ids: Collection[int]) -> None:
    """Modifies the logits [vocab_size]."""
    sequence, params = row.sequence, row.sequence.params
    if sequence.changes is None:
        # Kept: there may be thousands of tokens, and all who are served wait for a step.
        sequence.changes = Changes.of(params, eos_token_ids)
    changes = sequence.changes
    if params.logit_bias:
        logits[changes.biased_token_ids] += changes.biases
    if params.repetition_penalty != 1:
        seen = torch.tensor(list({*sequence.token_ids, *row.ahead}))
        values = logits[seen]
        factor = params.repetition_penalty
        # Finite, whatever the factor: two infinite logits have no difference, and no probabilities.
        logits[seen] = torch.where(values > 0, values / factor, values * factor).clamp(-_LARGEST, _LARGEST)
    if params.presence_penalty != 0 or params.frequency_penalty != 0:
        counts = Counter(sequence.token_ids[sequence.num_prompt_tokens :])
        counts.update(row.ahead)
        if counts:
            repeats = torch.tensor(list(counts.values()))
            logits[list(counts)] -= params.presence_penalty + params.frequency_penalty * repeats
    if row.num_output_tokens < params.min_tokens:
        logits[changes.ending_token_ids] = -torch.inf


def keep_form(logits: torch.Tensor, rows: SequenceOf[Row]) -> torch.Tensor:
    """logits [n, vocab_size] float32 with -inf for the tokens that an answer's form forbids.

    The same tensor, unmodified, if no row has a form to keep. A row behind drafts that the form forbids is left alone:
    nothing will be chosen there, since the form has forbidden the first of those drafts in its own row.
    """
    changed: list[int] = []
    allowed: list[np.ndarray[tuple[int, ...], np.dtype[np.bool_]]] = []
    for index, row in enumerate(rows):
        mask = None if row.sequence.guide is None else row.sequence.guide.allowed(row.ahead)
        if mask is not None:
            changed.append(index)
            allowed.append(mask)
    if not changed:
        return logits
    forbidden = torch.from_numpy(~np.stack(allowed)).to(logits.device)
    logits = logits.clone()
    logits[changed] = logits[changed].masked_fill(forbidden, -torch.inf)
    return logits
