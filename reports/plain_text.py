"""Text from elsewhere made harmless to look at: labels, error messages and command lines may hold anything."""

from __future__ import annotations

import unicodedata

# Characters that move the cursor, colour a terminal, or make text read otherwise than it is stored.
_CATEGORIES = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_KEPT = {"\n", "\u200c", "\u200d"}  # the joiners are needed to write Persian, Hindi and family emoji


def plain(text: str) -> str:
    """`text` with each control, direction and surrogate character shown as its escape, such as `\\x1b`."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_shown, text))


def one_line(text: str) -> str:
    """`plain(text)` on a single line."""
    return plain(" ".join(text.split("\n"))).strip()


def _shown(character: str) -> str:
    if character in _KEPT or unicodedata.category(character) not in _CATEGORIES:
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
