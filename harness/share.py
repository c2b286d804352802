"""A trial's requests divided among load workers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from llmbench.harness.plan import PlannedRequest, Trial

# What one worker was measured to take within its error budget (256 streams of 100 chunks/s).
CHUNKS_PER_S_PER_WORKER = 25_600
STREAMS_PER_WORKER = 256


@dataclass(frozen=True, slots=True)
class Share:
    """What one worker sends, with at most `concurrency` requests in flight; None is no bound."""

    requests: tuple[PlannedRequest, ...]
    concurrency: int | None


def shares(requests: Sequence[PlannedRequest], concurrency: int | None, num_workers: int) -> list[Share]:
    """`requests` dealt out in turn to at most `num_workers` workers, turns of a conversation to the same one.

    Due times stay what they are. A bound on the requests in flight is divided as evenly as it goes and requests in
    proportion to it, so that all bounds together are the one asked. The division is fixed: a worker that has sent all
    of its own takes none of another's, so that at a trial's end fewer may be in flight than one process would have.
    """
    num_dealt = num_workers if concurrency is None else min(num_workers, concurrency)
    dealt: list[list[PlannedRequest]] = [[] for _ in range(num_dealt)]
    worker_of: dict[str, int] = {}
    num_firsts = 0
    for request in requests:
        if request.after is not None:
            worker = worker_of[request.after]
        else:
            slot = num_firsts if concurrency is None else num_firsts % concurrency
            worker = slot % num_dealt
            num_firsts += 1
        worker_of[request.request_id] = worker
        dealt[worker].append(request)
    bounds: list[int | None] = [None] * num_dealt
    if concurrency is not None:
        bounds = [concurrency // num_dealt + (worker < concurrency % num_dealt) for worker in range(num_dealt)]
    return [Share(tuple(own), bound) for own, bound in zip(dealt, bounds, strict=True) if own]


def workers_needed(trials: Sequence[Trial], num_cores: int, growth: float = 1.0) -> int:
    """How many workers the busiest trial asks for at `growth` times its load: one, unless it offers more than one
    worker was measured to take.

    At most half the cores: the other half is the engine's, or the system's.
    """
    needed = 1
    for trial in trials:
        if trial.scheduled_ns:
            num_tokens = sum(request.generation.max_tokens for request in trial.requests)
            chunks_per_s = num_tokens / trial.scheduled_ns * 1e9
            needed = max(needed, math.ceil(growth * chunks_per_s / CHUNKS_PER_S_PER_WORKER))
        elif trial.concurrency is not None:
            needed = max(needed, math.ceil(growth * trial.concurrency / STREAMS_PER_WORKER))
    return min(needed, max(1, num_cores // 2))
