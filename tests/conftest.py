"""What holds for every test and for each process that one starts."""

from __future__ import annotations

import gc
import os
import signal

# Two threads that spin for each other cost tests of tiny models most of their time. Those that compare thread counts
# set theirs themselves.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell that runs pytest in the background, and pytest's own workers, ignore Ctrl-C and bequeath it to the programs
# whose Ctrl-C is tested.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """What importing and collecting has made stays: each full collection would look through all of it again."""
    gc.collect()
    gc.freeze()
