"""The load generator's scheduling, asked of the real system."""

from __future__ import annotations

import os
import subprocess
import sys

from llmbench.harness.priority import ORDINARY, REALTIME, foremost


def test_scheduling_is_what_it_says_and_is_given_back() -> None:
    before = os.sched_getscheduler(0)
    with foremost() as scheduling:
        expected = {REALTIME: os.SCHED_FIFO, ORDINARY: before}[scheduling]
        assert os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK == expected
        ask = "import os; print(os.sched_getscheduler(0))"
        child = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    assert int(child.stdout) == os.SCHED_OTHER
    assert os.sched_getscheduler(0) == before


def test_without_permission_nothing_changes() -> None:
    # A child that gave the right up for good asks; this process may be privileged.
    ask = (
        "import resource\n"
        "from llmbench.harness.priority import foremost\n"
        "resource.setrlimit(resource.RLIMIT_RTPRIO, (0, 0))\n"
        "import os\n"
        "if os.getuid() == 0:\n    os.setuid(65534)\n"
        "with foremost() as scheduling:\n    print(scheduling)\n"
    )
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    assert done.stdout == "ordinary\n"
