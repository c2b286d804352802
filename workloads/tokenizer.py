"""Text ↔ token ids, as a workload needs them: to make prompts of exact lengths and to count answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from llmbench.workloads.errors import WorkloadError


class TextTokenizer(Protocol):
    """What exact prompts need of a tokenizer. `decode` of `encode` need not give the same text back."""

    @property
    def vocab_size(self) -> int: ...

    # By identity will do: what was learnt about a tokenizer's vocabulary is kept for as long as it is in use.
    def __hash__(self) -> int: ...

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """Token ids of `text`; with `add_special_tokens`, with what a server puts around a prompt, such as BOS."""
        ...

    def decode(self, ids: list[int]) -> str:
        """The text of `ids`, special tokens left out."""
        ...


class FileTokenizer:
    """A tokenizer.json, through the `tokenizers` library. Its own truncation and padding are switched off."""

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer

        self.path = path
        try:
            self._tokenizer: Any = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exception for whatever is wrong with the file
            raise WorkloadError(f"{path}: not a tokenizer that the tokenizers library can read: {error}") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    @property
    def vocab_size(self) -> int:
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)

    def decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))


def load_tokenizer(path: str | Path) -> FileTokenizer:
    """The tokenizer in a folder (its tokenizer.json), or in the file itself. Raises WorkloadError."""
    given = Path(path)
    file = given / "tokenizer.json" if given.is_dir() else given
    if not file.is_file():
        missing = "the folder holds no tokenizer.json" if given.is_dir() else "there is no such file or folder"
        raise WorkloadError(
            f"{given}: {missing}, and prompts of exact token counts need one; set `tokenizer` to a folder with "
            "a tokenizer.json, such as the model's"
        )
    return FileTokenizer(file)
