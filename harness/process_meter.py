"""CPU time and memory of an engine's whole process tree."""

from __future__ import annotations

import psutil

from llmbench.results.telemetry import Value


class ProcessMeter:
    """Reads the tree below `pid`. CPU time of processes that have ended meanwhile stays counted, so that it only
    rises: what each had used when it was last seen."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._cpu_s: dict[tuple[int, float], float] = {}

    def read(self) -> list[Value]:
        """`cpu_seconds`, `rss` and `num_processes`; nothing once the tree is gone."""
        try:
            root = psutil.Process(self._pid)
            tree = [root, *root.children(recursive=True)]
        except psutil.Error:
            return []
        rss, num = 0, 0
        for process in tree:
            try:
                with process.oneshot():
                    times, memory = process.cpu_times(), process.memory_info()
                    self._cpu_s[process.pid, process.create_time()] = times.user + times.system
            except psutil.Error:
                continue
            rss += memory.rss
            num += 1
        if not num:
            return []
        cpu_s = sum(self._cpu_s.values())
        return [Value("cpu_seconds", cpu_s), Value("rss", float(rss)), Value("num_processes", float(num))]
