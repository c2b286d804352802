"""Text to token ids and back: whole, as it comes, and up to a stop string."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as FastTokenizer
from tokenizers.decoders import DecodeStream

from llmbench.reference_engine.chat_template import ChatTemplate, read_chat_template
from llmbench.reference_engine.errors import CheckpointError, RequestError
from llmbench.reference_engine.sentencepiece_model import SentencePieceModel, SentencePieceStream
from llmbench.reference_engine.token_bytes import NO_CHARACTER, settled_end, spelled_bytes
from llmbench.reference_engine.token_lengths import max_token_chars

# A text of so many characters is tokenised in well under a millisecond, less than a thread's way there and back.
SHORT_CHARS = 4096


class Tokenizer:
    """A checkpoint folder's tokenizer.json, or its tokenizer.model if it has no other, and its chat template if any.

    Raises CheckpointError for a folder without a readable tokenizer.
    """

    def __init__(self, folder: Path) -> None:
        config = _read_config(folder / "tokenizer_config.json")
        self.model = _read_model(folder, config)
        self._chat_template: ChatTemplate | None = read_chat_template(folder, config)

    @property
    def vocab_size(self) -> int:
        return self.model.vocab_size

    @property
    def max_token_chars(self) -> int | None:
        """No text has more characters than this times its tokens; None where that cannot be said."""
        return self.model.max_token_chars

    @property
    def has_chat_template(self) -> bool:
        return self._chat_template is not None

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of `text`, by default with what the checkpoint puts around a prompt, such as BOS.

        While a text of more than SHORT_CHARS is computed, other threads run.
        """
        return self.model.encode(text, add_special_tokens)

    def encode_chat(
        self, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any] | None = None
    ) -> list[int]:
        """Token ids of a conversation that ends where the assistant's answer begins. Raises as chat_text does."""
        # The template writes the special tokens itself.
        return self.encode(self.chat_text(messages, variables), add_special_tokens=False)

    def chat_text(self, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any] | None = None) -> str:
        """The conversation as the prompt that encode_chat tokenises.

        `variables` are further ones that the template may read. Raises RequestError if the checkpoint has no chat
        template or its template refuses these messages.
        """
        if self._chat_template is None:
            raise RequestError("This model has no chat template; use /v1/completions with a prompt.")
        return self._chat_template.render(messages, variables or {})

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, special tokens left out."""
        return self.model.decode(ids)

    def token_text(self, token_id: int) -> str:
        """What one token adds to a text that it does not begin; a part of a character shows as U+FFFD."""
        return self.model.token_text(token_id)

    def token_bytes(self, token_id: int) -> bytes:
        """The same in UTF-8, and of a part of a character the bytes that it is."""
        return self.model.token_bytes(token_id)

    def stream(self, prompt: Sequence[int] = ()) -> Detokenizer | SentencePieceStream:
        """Of the answer to a prompt: its first word keeps the space before it, which a text's first word has lost."""
        return self.model.stream(settled_end(self.decode, prompt))


class JsonModel:
    """A tokenizer.json, through the tokenizers library. Raises CheckpointError for an unreadable one."""

    def __init__(self, path: Path) -> None:
        try:
            self._fast: Any = FastTokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exception for whatever is wrong with the file
            raise CheckpointError(f"{path} is not a tokenizer that the tokenizers library can read: {error}") from None
        self._fast.no_truncation()
        self._fast.no_padding()
        self._before: list[int] = self._fast.encode("a", add_special_tokens=False).ids
        self._text_before = self._shown(self._before)

    @property
    def vocab_size(self) -> int:
        return int(self._fast.get_vocab_size(with_added_tokens=True))

    @cached_property
    def max_token_chars(self) -> int | None:
        return max_token_chars(json.loads(self.to_json()))

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        if len(text) <= SHORT_CHARS:
            return list(self._fast.encode(text, add_special_tokens=add_special_tokens).ids)
        # Unlike encode it gives the interpreter lock away, for which all else would wait.
        (encoding,) = self._fast.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        return list(encoding.ids)

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._fast.decode(list(ids), skip_special_tokens=True))

    def token_text(self, token_id: int) -> str:
        return self._shown([*self._before, token_id])[len(self._text_before) :]

    def token_bytes(self, token_id: int) -> bytes:
        text = self.token_text(token_id)
        if NO_CHARACTER not in text:
            return text.encode()
        return spelled_bytes(str(self._fast.id_to_token(token_id)))

    def to_json(self) -> str:
        """All of it, as tokenizer.json has it."""
        return str(self._fast.to_str())

    def stream(self, before: Sequence[int]) -> Detokenizer:
        return Detokenizer(self._fast, before)

    def _shown(self, ids: Sequence[int]) -> str:
        return str(self._fast.decode(list(ids), skip_special_tokens=False))


class Detokenizer:
    """Token ids of one answer, one by one, to its text. What has been returned is never taken back.

    `before` is what the answer's text stands behind.
    """

    def __init__(self, fast: Any, before: Sequence[int] = ()) -> None:
        self._fast = fast
        self._stream = DecodeStream(list(before), skip_special_tokens=True)
        self._shown = list(before)  # the tokens of the last text that was returned
        self._pending: list[int] = []

    def push(self, token_id: int) -> str:
        """The text that is settled by this token: "" while a character's bytes are not all there."""
        self._pending.append(token_id)
        try:
            text = self._stream.step(self._fast, token_id) or ""
        except Exception:  # the library raises plain Exception
            # Bytes that were characters are none, now that others have come behind them that fit no character.
            text = self._decode(self._shown + self._pending)[len(self._decode(self._shown)) :]
            self._stream = DecodeStream(self._pending, skip_special_tokens=True)
        if text:
            self._shown, self._pending = self._pending, []
        return text

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self._fast.decode(list(ids), skip_special_tokens=True))


class StopStrings:
    """Finds the first of several texts in an answer, and holds back what may be the beginning of one.

    What its first `min_tokens` tokens spell ends nothing, but may be the beginning of what does.
    """

    def __init__(self, stop: Sequence[str], min_tokens: int = 0) -> None:
        self._stop = tuple(stop)
        self._num_to_come = min_tokens
        self._held = ""
        self._num_exempt = 0  # of the held characters: a stop text that has only these does not count

    def push(self, text: str) -> tuple[str, str | None]:
        """Of a token's text: (what may be shown, the stop text that was found). That itself is never shown."""
        if not self._stop:
            return text, None
        self._held += text
        if self._num_to_come:
            self._num_to_come -= 1
            self._num_exempt = len(self._held)
        found = [(place, stop) for stop in self._stop if (place := self._find(stop)) >= 0]
        if found:
            place, stop = min(found)
            shown, self._held = self._held[:place], ""
            return shown, stop
        kept = max(_overlap(self._held, stop) for stop in self._stop)
        cut = len(self._held) - kept
        shown, self._held = self._held[:cut], self._held[cut:]
        self._num_exempt = max(self._num_exempt - cut, 0)
        return shown, None

    def _find(self, stop: str) -> int:
        return self._held.find(stop, max(self._num_exempt - len(stop) + 1, 0))

    def flush(self) -> str:
        """What was held back, once no more text will come."""
        shown, self._held = self._held, ""
        return shown


class StopFinder:
    """Whether the answer to a prompt has one of several texts in it, whatever tokens spell it."""

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], stop: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._before = settled_end(tokenizer.decode, prompt)
        self._num_before = len(tokenizer.decode(self._before))
        self._stop = tuple(stop)

    def __call__(self, token_ids: Sequence[int]) -> bool:
        text = self._tokenizer.decode([*self._before, *token_ids])
        return any(text.find(stop, self._num_before) >= 0 for stop in self._stop)


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


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}.") from None
    return config if isinstance(config, dict) else {}
