"""Text ↔ token ids, as a workload needs them: to make prompts of exact lengths and to count answers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Protocol

from llmbench.workloads.errors import WorkloadError

# Of a checkpoint folder; the first that is there.
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model")


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


class SentencePieceTokenizer:
    """A tokenizer.model, through the sentencepiece library; needs the extra llmbench[sentencepiece].

    Control tokens are read where a text spells them out, and put around a prompt as the tokenizer_config.json beside
    the file says: by default a BOS in front, as Llama's.
    """

    def __init__(self, path: Path) -> None:
        try:
            from sentencepiece import SentencePieceProcessor
        except ImportError:
            raise WorkloadError(f'{path} needs sentencepiece: pip install "llmbench[sentencepiece]"') from None
        self.path = path
        try:
            self._model: Any = SentencePieceProcessor(model_file=str(path))
        except (RuntimeError, OSError) as error:
            raise WorkloadError(f"{path}: not a model that sentencepiece can read: {error}") from error
        config = _read_config(path.with_name("tokenizer_config.json"))
        bos, eos = self._model.bos_id(), self._model.eos_id()
        self._before = [bos] if config.get("add_bos_token", True) and bos >= 0 else []
        self._after = [eos] if config.get("add_eos_token", False) and eos >= 0 else []
        self._controls = {
            self._model.id_to_piece(id_): id_ for id_ in range(self.vocab_size) if self._model.is_control(id_)
        }
        self._control = re.compile(f"({'|'.join(map(re.escape, self._controls))})") if self._controls else None

    @property
    def vocab_size(self) -> int:
        return int(self._model.vocab_size())

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        parts = [text] if self._control is None else self._control.split(text)
        ids: list[int] = []
        for part in filter(None, parts):
            ids += [self._controls[part]] if part in self._controls else self._model.encode(part)
        return [*self._before, *ids, *self._after] if add_special_tokens else ids

    def decode(self, ids: list[int]) -> str:
        # A model's vocabulary may be padded beyond the tokenizer's.
        return str(self._model.decode([id_ for id_ in ids if id_ < self.vocab_size]))


def find_tokenizer(folder: Path) -> Path | None:
    """The file in a checkpoint folder that text becomes token ids with; None if it has none."""
    return next((folder / name for name in TOKENIZER_FILES if (folder / name).is_file()), None)


def load_tokenizer(path: str | Path) -> FileTokenizer | SentencePieceTokenizer:
    """The tokenizer in a folder, or in the file itself: a tokenizer.json or a tokenizer.model. Raises WorkloadError."""
    given = Path(path)
    file = find_tokenizer(given) if given.is_dir() else given
    if file is None or not file.is_file():
        names = " and no ".join(TOKENIZER_FILES)
        missing = f"the folder holds no {names}" if given.is_dir() else "there is no such file or folder"
        raise WorkloadError(
            f"{given}: {missing}, and prompts of exact token counts need one; set `tokenizer` to a folder with "
            "a tokenizer.json, such as the model's"
        )
    return SentencePieceTokenizer(file) if file.suffix == ".model" else FileTokenizer(file)


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WorkloadError(f"{path} is not valid JSON: {error}") from None
    return config if isinstance(config, dict) else {}
