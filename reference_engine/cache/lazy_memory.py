"""Host memory that is taken page by page when it is written, and given back by the page."""

from __future__ import annotations

import mmap
import sys

import torch

from llmbench.reference_engine.errors import ConfigError


class LazyMemory:
    """Zeros until they are written, as `bytes` [num_bytes] uint8; pages of their own, resident once written.

    torch.zeros writes every page at once, and its memory is the allocator's. Raises ConfigError where the system is not
    Linux: elsewhere pages given back may keep their content, or their place.
    """

    PAGE_BYTES = mmap.PAGESIZE

    def __init__(self, num_bytes: int) -> None:
        if sys.platform != "linux":
            raise ConfigError(
                f"compaction = idle gives memory back to Linux, and this is {sys.platform}; leave compaction off."
            )
        # Private: what is shared between processes is a file in memory, which keeps its pages whatever we say.
        self._map = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.bytes = torch.frombuffer(self._map, dtype=torch.uint8)

    def give_back(self, start: int, end: int) -> None:
        """Make the whole pages among bytes [start, end) zeros that take no memory.

        Where pages are huge (transparent_hugepage = always) the kernel may keep the rest of one until it needs memory.
        """
        first = -(-start // self.PAGE_BYTES) * self.PAGE_BYTES
        length = end // self.PAGE_BYTES * self.PAGE_BYTES - first
        if length > 0:
            self._map.madvise(mmap.MADV_DONTNEED, first, length)
