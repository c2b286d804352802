"""The names under which KV blocks are found again: one hash per full block, chained over everything before it.

A key or a value depends on all tokens up to its own. So block i of a sequence is named by the hash of block i - 1's
name and block i's tokens, and two sequences share a block only if they are equal from their first token on. The names
are SHA-256: nobody can make two prompts with one name, so a hit needs no comparison of tokens.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence as SequenceOf

from llmbench.reference_engine.cache.block_pool import BlockPool


def extend_keys(keys: list[bytes], token_ids: SequenceOf[int], block_size: int) -> None:
    """Append to `keys`, the names of the first blocks, those of all further full blocks of `token_ids`."""
    for start in range(len(keys) * block_size, len(token_ids) - block_size + 1, block_size):
        content = array("q", token_ids[start : start + block_size]).tobytes()
        keys.append(hashlib.sha256((keys[-1] if keys else b"") + content).digest())


def find_prefix(pool: BlockPool, keys: SequenceOf[bytes]) -> list[int]:
    """The blocks of the longest beginning that is in the cache, for `pool.share`."""
    found: list[int] = []
    for key in keys:
        block_id = pool.find(key)
        if block_id is None:
            break
        found.append(block_id)
    return found
