"""How fast engines answered, roughly, from their timelines alone: what a calibration has to imitate."""

from __future__ import annotations

from array import array
from collections import defaultdict
from statistics import median

from llmbench.engines.wire import Timeline


class Pace:
    """Collects one number or two per answer. A read counts as a chunk, whatever it carries."""

    def __init__(self) -> None:
        self._first_ns: dict[str, array[int]] = defaultdict(lambda: array("q"))
        self._gap_ns: dict[str, array[int]] = defaultdict(lambda: array("q"))

    def add(self, label: str, timeline: Timeline) -> None:
        """Count an answer of the engine called `label`, unless it failed."""
        if timeline.failure is not None or timeline.sent_ns is None or not timeline.chunk_ns:
            return
        first_ns, last_ns, num_chunks = timeline.stamp_ns(0), timeline.stamp_ns(-1), len(timeline.chunk_ns)
        self._first_ns[label].append(max(0, first_ns - timeline.sent_ns))
        if num_chunks > 1:
            self._gap_ns[label].append(max(0, last_ns - first_ns) // (num_chunks - 1))

    def fastest_ms(self) -> tuple[float, float] | None:
        """Median time to the first chunk, and median gap between chunks, of the engine that sent them fastest.

        A gap of 0 where no answer had two chunks; None where there was no answer.
        """
        if not self._first_ns:
            return None

        def gap_ns(label: str) -> float:
            gaps = self._gap_ns.get(label)
            return median(gaps) if gaps else 0.0

        label = min(self._first_ns, key=gap_ns)
        return median(self._first_ns[label]) / 1e6, gap_ns(label) / 1e6
