"""Requests that were sent more than once: which row decides, and what it took."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow as pa

    from llmbench.results.run import Run


@dataclass(frozen=True, slots=True)
class RetryCount:
    """Of `num_requests` of an engine at a level `num_retried` were sent more than once, and `num_recovered` of these
    ended well. `kinds` counts the failed attempts that were followed by another, the most frequent first."""

    engine: str
    level: str
    num_requests: int
    num_retried: int
    num_recovered: int
    num_attempts: int
    kinds: tuple[tuple[str, int], ...]

    @property
    def sentence(self) -> str:
        """For people: `3 of 60 requests were sent again (3 × rate limited), and 3 of them ended well`."""
        kinds = ", ".join(f"{num} × {kind.replace('_', ' ')}" for kind, num in self.kinds)
        return (
            f"{self.num_retried} of {self.num_requests} requests were sent again, {self.num_attempts} attempts in all "
            f"({kinds}); {self.num_recovered} of them ended well"
        )


def are_last(requests: pa.Table) -> NDArray[np.bool_]:
    """Of each row whether it is its request's last attempt."""
    attempt = requests.column("attempt").to_numpy()
    last = np.ones(len(attempt), bool)
    if not (attempt > 1).any():
        return last
    attempts: dict[tuple[object, ...], int] = {}
    keys = _keys(requests)
    for key, number in zip(keys, attempt.tolist(), strict=True):
        attempts[key] = max(number, attempts.get(key, 0))
    return np.array([attempts[key] == number for key, number in zip(keys, attempt.tolist(), strict=True)])


def retries(run: Run) -> list[RetryCount]:
    """By engine and level, in the order in which they first ended; none of those where nothing was sent again."""
    rows = run.requests.filter(~run.requests.column("warmup").to_numpy(zero_copy_only=False))
    last = are_last(rows)
    if last.all():
        return []
    engines, levels, kinds, statuses = (
        rows.column(name).to_pylist() for name in ("engine", "level", "error_kind", "status")
    )
    attempt = rows.column("attempt").to_numpy()
    places: dict[tuple[str, str], list[int]] = {}
    for place, pair in enumerate(zip(engines, levels, strict=True)):
        places.setdefault(pair, []).append(place)
    found = []
    for (engine, level), members in places.items():
        again = Counter(kinds[place] or "unknown" for place in members if not last[place])
        if again:
            ends = [place for place in members if last[place]]
            found.append(
                RetryCount(
                    engine=engine,
                    level=level,
                    num_requests=len(ends),
                    num_retried=sum(attempt[place] > 1 for place in ends),
                    num_recovered=sum(attempt[place] > 1 and statuses[place] == "ok" for place in ends),
                    num_attempts=len(members),
                    kinds=tuple(again.most_common()),
                )
            )
    return found


def _keys(requests: pa.Table) -> list[tuple[object, ...]]:
    columns = (requests.column(name).to_pylist() for name in ("engine", "level", "round", "index", "warmup"))
    return list(zip(*columns, strict=True))
