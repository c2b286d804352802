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
    if not (attempt > 1).any():
        return np.ones(len(attempt), bool)
    numbers, request = np.unique(_request_numbers(requests), return_inverse=True)
    highest = np.zeros(len(numbers), attempt.dtype)
    np.maximum.at(highest, request, attempt)
    last: NDArray[np.bool_] = highest[request] == attempt
    return last


def rows_of_attempts(requests: pa.Table, last: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows of all attempts of the requests whose last attempts are the rows `last`: in the order of `last`, the
    attempts of each in theirs."""
    attempt = requests.column("attempt").to_numpy()
    if not (attempt[last] > 1).any():
        return last
    numbers, earlier = _request_numbers(requests), np.flatnonzero(~are_last(requests))
    rows = np.concatenate([last, earlier[np.isin(numbers[earlier], numbers[last])]])
    order = np.argsort(numbers[last])
    place = order[np.searchsorted(numbers[last], numbers[rows], sorter=order)]
    return rows[np.lexsort((attempt[rows], place))]


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


def _request_numbers(requests: pa.Table) -> NDArray[np.int64]:
    """A number for each row, the same for all attempts of a request and for no other's."""
    number = np.zeros(requests.num_rows, np.int64)
    for name in ("engine", "level", "round", "index", "warmup"):
        codes = requests.column(name).combine_chunks().dictionary_encode()
        number = number * len(codes.dictionary) + codes.indices.to_numpy()
    return number
