"""Text to token ids and back: whole, as it comes, and up to a stop string."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer as FastTokenizer
from tokenizers.decoders import DecodeStream

from llmbench.reference_engine.errors import CheckpointError, RequestError
from llmbench.reference_engine.sentencepiece_model import SentencePieceModel, SentencePieceStream


class Tokenizer:
    """A checkpoint folder's tokenizer.json, or its tokenizer.model if it has no other, and its chat template if any.

    Raises CheckpointError for a folder without a readable tokenizer.
    """

    def __init__(self, folder: Path) -> None:
        config = _read_config(folder / "tokenizer_config.json")
        self.model = _read_model(folder, config)
        self._special_texts = {name: _text(config.get(name)) for name in ("bos_token", "eos_token", "unk_token")}
        self._chat_template = _read_template(folder, config)

    @property
    def vocab_size(self) -> int:
        return self.model.vocab_size

    @property
    def has_chat_template(self) -> bool:
        return self._chat_template is not None

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of `text`, by default with what the checkpoint puts around a prompt, such as BOS."""
        return self.model.encode(text, add_special_tokens)

    def encode_chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Token ids of a conversation that ends where the assistant's answer begins.

        Raises RequestError if the checkpoint has no chat template or its template refuses these messages.
        """
        if self._chat_template is None:
            raise RequestError("This model has no chat template; use /v1/completions with a prompt.")
        try:
            text = self._chat_template.render(messages=messages, add_generation_prompt=True, **self._special_texts)
        except Exception as error:  # a template may do anything to its messages, such as add a text to a number
            raise RequestError(f"The model's chat template refuses these messages: {error}") from None
        # The template writes the special tokens itself.
        return self.encode(text, add_special_tokens=False)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, special tokens left out."""
        return self.model.decode(ids)

    def token_text(self, token_id: int) -> str:
        """The text of one token by itself; a part of a character shows as U+FFFD."""
        return self.model.token_text(token_id)

    def stream(self) -> Detokenizer | SentencePieceStream:
        return self.model.stream()


class JsonModel:
    """A tokenizer.json, through the tokenizers library. Raises CheckpointError for an unreadable one."""

    def __init__(self, path: Path) -> None:
        try:
            self._fast: Any = FastTokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exception for whatever is wrong with the file
            raise CheckpointError(f"{path} is not a tokenizer that the tokenizers library can read: {error}") from None
        self._fast.no_truncation()
        self._fast.no_padding()

    @property
    def vocab_size(self) -> int:
        return int(self._fast.get_vocab_size(with_added_tokens=True))

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        return list(self._fast.encode(text, add_special_tokens=add_special_tokens).ids)

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._fast.decode(list(ids), skip_special_tokens=True))

    def token_text(self, token_id: int) -> str:
        return str(self._fast.decode([token_id], skip_special_tokens=False))

    def to_json(self) -> str:
        """All of it, as tokenizer.json has it."""
        return str(self._fast.to_str())

    def stream(self) -> Detokenizer:
        return Detokenizer(self._fast)


class Detokenizer:
    """Token ids of one answer, one by one, to its text. What has been returned is never taken back."""

    def __init__(self, fast: Any) -> None:
        self._fast = fast
        self._stream = DecodeStream(skip_special_tokens=True)

    def push(self, token_id: int) -> str:
        """The text that is settled by this token: "" while a character's bytes are not all there."""
        return self._stream.step(self._fast, token_id) or ""


class StopStrings:
    """Finds the first of several texts in a stream, and holds back what may be the beginning of one."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(stop)
        self._held = ""

    def push(self, text: str) -> tuple[str, str | None]:
        """(text that may be shown, the stop text that was found). The stop text itself is never shown."""
        if not self._stop:
            return text, None
        self._held += text
        found = [(place, stop) for stop in self._stop if (place := self._held.find(stop)) >= 0]
        if found:
            place, stop = min(found)
            shown, self._held = self._held[:place], ""
            return shown, stop
        kept = max(_overlap(self._held, stop) for stop in self._stop)
        cut = len(self._held) - kept
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown, None

    def flush(self) -> str:
        """What was held back, once no more text will come."""
        shown, self._held = self._held, ""
        return shown


class StopFinder:
    """Whether an answer's text has one of several texts in it, whatever tokens spell it."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(stop)

    def __call__(self, token_ids: Sequence[int]) -> bool:
        text = self._tokenizer.decode(token_ids)
        return any(stop in text for stop in self._stop)


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that `stop` begins with, short of all of `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if stop.startswith(text[-n:])), 0)


def _read_model(folder: Path, config: Mapping[str, Any]) -> JsonModel | SentencePieceModel:
    if (folder / "tokenizer.json").is_file():
        return JsonModel(folder / "tokenizer.json")
    path = folder / "tokenizer.model"
    if not path.is_file():
        raise CheckpointError(
            f"{folder} has no tokenizer.json and no tokenizer.model, so text cannot become token ids."
        )
    # As transformers' Llama tokenizer has it where the configuration does not say.
    return SentencePieceModel(
        path, add_bos=bool(config.get("add_bos_token", True)), add_eos=bool(config.get("add_eos_token", False))
    )


def _read_template(folder: Path, config: Mapping[str, Any]) -> Template | None:
    # Newer checkpoints keep it in a file of its own, which goes before the field.
    file = folder / "chat_template.jinja"
    source = file.read_text(encoding="utf-8") if file.is_file() else config.get("chat_template")
    if not isinstance(source, str):
        return None
    try:
        return _sandbox().from_string(source)
    except TemplateError as error:
        raise CheckpointError(f"{folder}: chat_template is not a jinja2 template: {error}") from None


def _sandbox() -> ImmutableSandboxedEnvironment:
    # A checkpoint is a download: its template may not touch anything. Options as Hugging Face renders them.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = _refuse
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment


def _refuse(message: str) -> None:
    raise TemplateError(message)


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}.") from None
    return config if isinstance(config, dict) else {}


def _text(token: object) -> str:
    # Older checkpoints store {"content": "<s>", …} in place of the text.
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else ""
