"""The bytes that a token stands for, and where the text before it is settled."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

# What a decoder shows for bytes that are no character, or not yet.
NO_CHARACTER = "\ufffd"

# How far back in a prompt there may be nothing but control tokens and parts of characters.
_LOOK_BACK = 16

# Byte-level vocabularies spell a byte that has no sign of its own by one from 256 on. Source: GPT-2's encoder.py.
_SIGNS = [*range(33, 127), *range(161, 173), *range(174, 256)]
_BYTE_OF = {chr(byte): byte for byte in _SIGNS}
_BYTE_OF |= {chr(256 + place): byte for place, byte in enumerate(sorted(set(range(256)) - set(_SIGNS)))}
BYTE_SIGNS = frozenset(_BYTE_OF)

_FALLBACK = re.compile("<0x([0-9A-F]{2})>")


def spelled_bytes(piece: str) -> bytes:
    """The bytes of a piece of a vocabulary whose text is no whole character: <0xE2> as SentencePiece has it, or one
    sign per byte."""
    if found := _FALLBACK.fullmatch(piece):
        return bytes([int(found[1], 16)])
    if all(sign in _BYTE_OF for sign in piece):
        return bytes(_BYTE_OF[sign] for sign in piece)
    return piece.encode()


def settled_end(decode: Callable[[Sequence[int]], str], prompt: Sequence[int]) -> list[int]:
    """The last tokens of a prompt, as few as have a text, or all of a prompt that has none.

    None where the text ends in part of a character, which the answer would complete.
    """
    for count in range(1, min(len(prompt), _LOOK_BACK) + 1):
        text = decode(prompt[-count:])
        if not text.endswith(NO_CHARACTER) and (text or count == len(prompt)):
            return list(prompt[-count:])
    return []
