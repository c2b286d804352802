"""What one request may ask of a loaded model, whatever else is being served."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from llmbench.reference_engine.errors import RequestError

# Of the name of a user.
MAX_USER_CHARS = 256


class Limits(NamedTuple):
    max_model_len: int
    vocab_size: int

    def check(self, prompt_token_ids: Sequence[int], max_tokens: int, token_ids: Sequence[int]) -> None:
        """Raises RequestError for a prompt or a length that does not fit, or token ids outside the vocabulary.

        `token_ids` are those the request names beside its prompt, e.g. to stop at.
        """
        if not prompt_token_ids:
            raise RequestError("The prompt is empty; at least one token is needed.")
        num_tokens = len(prompt_token_ids) + max_tokens
        if num_tokens > self.max_model_len:
            raise RequestError(
                f"The context length is {self.max_model_len} tokens; {len(prompt_token_ids)} prompt tokens and "
                f"max_tokens = {max_tokens} make {num_tokens}."
            )
        for token_id in (min(prompt_token_ids), max(prompt_token_ids), *token_ids):
            if not 0 <= token_id < self.vocab_size:
                raise RequestError(f"Token id {token_id} is outside the vocabulary of {self.vocab_size} tokens.")
