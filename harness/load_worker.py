"""One of several load generators of a run: `python -m llmbench.harness.load_worker`, fed by `harness/load_crew.py`.

A process of its own has an interpreter lock of its own, which is all that keeps one load generator from a second core.
All of them stamp with the one monotonic clock of their host.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import sys
import threading
import traceback
from typing import IO

from llmbench.engines import registry
from llmbench.engines.adapter import EngineError
from llmbench.harness.encoded_load import EncodedLoad
from llmbench.harness.errors import HarnessError
from llmbench.harness.load_orders import Assignment, Go, Halt, Ready
from llmbench.harness.loadgen import run_load
from llmbench.harness.outbox import Outbox
from llmbench.harness.own_stdout import own_stdout
from llmbench.harness.recorder import Answered
from llmbench.harness.stop_flag import StopFlag


def main() -> None:
    orders: queue.SimpleQueue[Assignment | Go | None] = queue.SimpleQueue()
    stop = StopFlag()
    threading.Thread(target=_listen, args=(sys.stdin.buffer, orders, stop), daemon=True).start()
    replies = Outbox(own_stdout())
    try:
        _work(orders, replies, stop)
        code = 0
    except (HarnessError, EngineError) as error:
        replies.put(error)
        code = 0
    except Exception:
        traceback.print_exc()
        code = 1
    replies.close()
    sys.stderr.flush()
    # Not sys.exit: the thread that listens holds stdin's lock for as long as the harness keeps the pipe open.
    os._exit(code)


def _work(orders: queue.SimpleQueue[Assignment | Go | None], replies: Outbox, stop: StopFlag) -> None:
    while (assignment := orders.get()) is not None:
        assert isinstance(assignment, Assignment)
        adapter = registry.get(*assignment.adapter)
        load = EncodedLoad.of(assignment.share.requests, adapter, assignment.endpoint, assignment.retries)
        replies.put(Ready())
        go = orders.get()
        if go is None:
            return
        assert isinstance(go, Go)
        report = run_load(
            load.outgoing,
            concurrency=assignment.share.concurrency,
            timeouts=assignment.timeouts,
            on_done=lambda request_id, timeline: replies.put(Answered(request_id, timeline)),
            stop=stop,
            start_ns=go.start_ns,
            clock=assignment.clock,
            conversations=load.conversations,
            retries=load.retries,
        )
        replies.put(report)


def _listen(pipe: IO[bytes], orders: queue.SimpleQueue[Assignment | Go | None], stop: StopFlag) -> None:
    with contextlib.suppress(EOFError, pickle.UnpicklingError):
        while True:
            order = pickle.load(pipe)  # noqa: S301 (our own parent's)
            if isinstance(order, Halt):
                stop.set()
            else:
                orders.put(order)
    # The harness is gone, or has no more to do.
    stop.set()
    orders.put(None)


if __name__ == "__main__":
    main()
