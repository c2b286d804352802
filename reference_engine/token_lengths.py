"""How much text one token can stand for, by what a tokenizer.json says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from llmbench.reference_engine.token_bytes import BYTE_SIGNS

# For how many characters of a text one may stand behind a normalizer, and how many one may become. A character
# decomposes to at most 4, in the compatibility forms to 18, and what is composed again was at most 4.
_NORMALIZERS = {
    "NFC": (4, 4),
    "NFD": (1, 4),
    "NFKC": (4, 18),
    "NFKD": (1, 18),
    "Lowercase": (1, 3),
    "ByteLevel": (1, 4),
}
# Those that take nothing away; with a behavior "Removed" they would.
_PRE_TOKENIZERS = ("ByteLevel", "Digits", "Metaspace", "Punctuation", "Split", "UnicodeScripts")
_FALLBACKS = frozenset(f"<0x{byte:02X}>" for byte in range(256))


def max_token_chars(described: Mapping[str, Any]) -> int | None:
    """No text has more characters than this times its tokens. `described` is a tokenizer.json.

    None where a token may stand for a text of any length, or text may become no token at all: whitespace that is
    stripped or taken along, an unknown word. So too of anything that is not known here.
    """
    try:
        shrinks, grows = _factors(described.get("normalizer"))
        steps = list(_steps(described.get("pre_tokenizer"), "pretokenizers"))
        added = described.get("added_tokens") or []
        vocab = described["model"]["vocab"]
        is_byte_level = any(
            step["type"] == "ByteLevel" for step in (*steps, *_steps(described.get("normalizer"), "normalizers"))
        )
        if any(step["type"] not in _PRE_TOKENIZERS or step.get("behavior") == "Removed" for step in steps):
            return None
        if any(token["lstrip"] or token["rstrip"] for token in added):
            return None
        if not _has_token_for_any_text(described["model"], is_byte_level):
            return None
        added_chars = [len(token["content"]) * (grows if token["normalized"] else 1) for token in added]
    except (AttributeError, KeyError, TypeError, _UnknownError):
        return None
    return int(shrinks * max((*map(len, vocab), *added_chars)))


class _UnknownError(Exception):
    pass


def _steps(step: Mapping[str, Any] | None, members: str) -> Iterable[Mapping[str, Any]]:
    """The steps that make up one, in their order; `members` is what a Sequence calls its own."""
    if step is None:
        return
    if step["type"] == "Sequence":
        for member in step[members]:
            yield from _steps(member, members)
    else:
        yield step


def _factors(normalizer: Mapping[str, Any] | None) -> tuple[int, int]:
    shrinks = grows = 1
    for step in _steps(normalizer, "normalizers"):
        match step:
            case {"type": "Prepend", "prepend": str(text)}:
                grows *= 1 + len(text)
            case {"type": "Replace", "pattern": {"String": str(text)}, "content": str(other)} if text and other:
                shrinks *= -(-len(text) // len(other))
                grows *= len(other)
            case {"type": kind} if kind in _NORMALIZERS:
                shrinks, grows = shrinks * _NORMALIZERS[kind][0], grows * _NORMALIZERS[kind][1]
            case _:
                raise _UnknownError
    return shrinks, grows


def _has_token_for_any_text(model: Mapping[str, Any], is_byte_level: bool) -> bool:
    if model["type"] != "BPE":
        return False
    alphabet = BYTE_SIGNS if is_byte_level else _FALLBACKS if model.get("byte_fallback") else None
    return alphabet is not None and alphabet <= model["vocab"].keys()
