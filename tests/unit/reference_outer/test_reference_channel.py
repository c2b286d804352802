"""Messages between the server and its engine survive any cut of the bytes that carry them."""

from __future__ import annotations

import itertools
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbench.reference_engine.sampling import SamplingParams
from llmbench.reference_engine.server.channel import BlockingChannel, Finish, FrameReader, Submit, frame

MESSAGES = [
    Submit("1", [1, 2, 3], SamplingParams(max_tokens=4, logit_bias={7: -1.0}), 0, None),
    Finish("1", aborted=True),
    Submit("2", list(range(5000)), SamplingParams(), -3, "someone"),
]


@given(cuts=st.lists(st.integers(0, 12_000), max_size=8))
def test_frames_cut_anywhere(cuts: list[int]) -> None:
    stream = b"".join(map(frame, MESSAGES))
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    reader = FrameReader()
    received = [message for begin, end in itertools.pairwise(edges) for message in reader.feed(stream[begin:end])]
    assert received == MESSAGES


def test_channel_waits_only_when_told_and_says_when_the_other_end_is_gone() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        channel = BlockingChannel(theirs)
        assert channel.receive(wait=False) == []
        ours.sendall(frame(MESSAGES[1])[:3])
        assert channel.receive(wait=False) == []
        ours.sendall(frame(MESSAGES[1])[3:])
        assert channel.receive(wait=True) == [MESSAGES[1]]
        ours.close()
        with pytest.raises(EOFError):
            channel.receive(wait=True)
        with pytest.raises(EOFError):
            channel.send(MESSAGES[1])
