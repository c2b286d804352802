"""Passages of a text file, as long as they are asked for."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from llmbench.workloads.errors import WorkloadError, reason_of

if TYPE_CHECKING:
    import numpy as np

_WORD = re.compile(r"\S+\s*")


class Passages:
    """A text as a ring of words, each with the blanks behind it; a passage may run over the end to the beginning."""

    def __init__(self, path: str) -> None:
        try:
            text = Path(path).read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise WorkloadError(f"{path}: the byte at offset {error.start} is not UTF-8") from error
        except (OSError, ValueError) as error:
            raise WorkloadError(f"{path}: the text file cannot be read: {reason_of(error)}") from error
        self._words = _WORD.findall(text)
        if not self._words:
            raise WorkloadError(f"{path}: the text file holds no words")
        if not self._words[-1][-1].isspace():
            self._words[-1] += "\n"

    def _join(self, start: int, num_words: int) -> str:
        return "".join(self._words[(start + step) % len(self._words)] for step in range(num_words)).rstrip()

    def words(self, num_words: int, generator: np.random.Generator) -> str:
        """`num_words` words from a random place."""
        return self._join(int(generator.integers(len(self._words))), num_words)

    def at_most(self, head: str, num_tokens: int, count: Callable[[str], int], generator: np.random.Generator) -> str:
        """`head` and the longest passage from a random place with which it counts at most `num_tokens`."""
        start = int(generator.integers(len(self._words)))

        def passage(num_words: int) -> str:
            return (
                f"{head} {self._join(start, num_words)}" if head and num_words else head or self._join(start, num_words)
            )

        # A word is a token at least, nearly always; the count grows with the words, so bisection finds the end.
        fits, too_many = 0, num_tokens + 1
        while too_many - fits > 1:
            middle = (fits + too_many) // 2
            fits, too_many = (middle, too_many) if count(passage(middle)) <= num_tokens else (fits, middle)
        return passage(fits)
