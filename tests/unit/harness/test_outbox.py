"""What is handed over arrives whole, in order, and alone at once."""

from __future__ import annotations

import os
import pickle
import time

from llmbench.harness.outbox import Outbox


def test_everything_arrives_in_order_and_the_pipe_is_closed() -> None:
    reading, writing = os.pipe()
    outbox = Outbox(os.fdopen(writing, "wb"))
    for number in range(500):
        outbox.put((number, b"x" * 100))
        if number % 100 == 0:
            time.sleep(0.001)
    with os.fdopen(reading, "rb") as pipe:
        assert [pickle.load(pipe)[0] for _ in range(500)] == list(range(500))
        outbox.close()
        assert pipe.read() == b""


def test_a_message_is_what_it_was_when_it_was_handed_over() -> None:
    reading, writing = os.pipe()
    outbox = Outbox(os.fdopen(writing, "wb"))
    message = [1]
    outbox.put(message)
    message.append(2)
    outbox.close()
    with os.fdopen(reading, "rb") as pipe:
        assert pickle.load(pipe) == [1]


def test_a_reader_that_has_gone_stops_nobody() -> None:
    reading, writing = os.pipe()
    outbox = Outbox(os.fdopen(writing, "wb"))
    os.close(reading)
    outbox.put(1)
    outbox.put(2)
    outbox.close(timeout_s=5)
