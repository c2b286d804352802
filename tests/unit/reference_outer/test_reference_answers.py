"""Answers whose clients leave."""

from __future__ import annotations

import asyncio

from llmbench.reference_engine.server.answers import until_disconnect


async def test_nothing_more_is_written_for_a_client_that_left_without_having_read() -> None:
    """All of the answer is there, so that writing it would never wait again, and nobody else would have a turn."""
    has_left, is_writable = asyncio.Event(), asyncio.Event()
    num_written = 0

    async def receive() -> dict[str, str]:
        await has_left.wait()
        return {"type": "http.disconnect"}

    async def write() -> None:
        nonlocal num_written
        await is_writable.wait()
        num_written += 1

    answering = asyncio.create_task(until_disconnect(receive, "7", write()))
    await asyncio.sleep(0.01)
    # In this order where a connection is lost.
    has_left.set()
    is_writable.set()
    await answering
    assert num_written == 0
