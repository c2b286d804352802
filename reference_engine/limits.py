"""What one request may ask of a loaded model, whatever else is being served."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from llmbench.reference_engine.errors import RequestError

# Of the name of a user.
MAX_USER_CHARS = 256


class Limits(NamedTuple):
    max_model_len: int
    vocab_size: int

    def check(self, prompt_token_ids: Sequence[int], max_tokens: int, token_ids: Collection[int] = ()) -> None:
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
        self.check_token_ids(prompt_token_ids)
        self.check_token_ids(token_ids)

    def check_text(self, num_chars: int, max_token_chars: int | None) -> None:
        """Raises RequestError for a prompt that is too long whatever its tokens are, before time is spent on them.

        `max_token_chars` as Tokenizer has it.
        """
        if max_token_chars is not None and num_chars > self.max_model_len * max_token_chars:
            raise RequestError(
                f"The context length is {self.max_model_len} tokens, and none of the model's stands for more than "
                f"{max_token_chars} characters; the prompt has {num_chars}."
            )

    def check_token_ids(self, token_ids: Collection[int]) -> None:
        """Raises RequestError for one outside the vocabulary."""
        if not token_ids:
            return
        for token_id in (min(token_ids), max(token_ids)):
            if not 0 <= token_id < self.vocab_size:
                raise RequestError(f"Token id {token_id} is outside the vocabulary of {self.vocab_size} tokens.")
