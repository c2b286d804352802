"""The load generator before everything else on its machine: a late client is a wrong clock."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

REALTIME = "realtime"
ORDINARY = "ordinary"


@contextlib.contextmanager
def foremost() -> Iterator[str]:
    """The calling thread scheduled in real time (SCHED_FIFO) where the system lets it, and as before afterwards.

    Gives the scheduling it got: REALTIME needs CAP_SYS_NICE or an RLIMIT_RTPRIO; without, ORDINARY, and nothing is
    changed. A thread that mostly sleeps takes next to nothing from the engine by it: it is only woken at once. What it
    starts does not inherit it.
    """
    if not hasattr(os, "sched_setscheduler"):
        yield ORDINARY
        return
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    except OSError:
        yield ORDINARY
        return
    try:
        yield REALTIME
    finally:
        os.sched_setscheduler(0, policy & ~os.SCHED_RESET_ON_FORK, parameters)
