"""Working on one thing while the next is being made."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")


def ahead(items: Generator[Item, None, None]) -> Iterator[Item]:
    """The same items in the same order; the next one is made by a thread of its own while the caller has this one.

    Worth it where making one releases the interpreter's lock, as reading Parquet and numpy's arithmetic do.
    """
    with ThreadPoolExecutor(1) as pool:
        try:
            pending = pool.submit(next, items, None)
            while (item := pending.result()) is not None:
                pending = pool.submit(next, items, None)
                yield item
        finally:
            # A caller that stops early leaves one under way, and a generator at work cannot be closed.
            pool.shutdown()
            items.close()
