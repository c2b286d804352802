"""How much load a level is, read from its name: `poisson 8/s` is a rate of 8, `closed 4` a concurrency of 4."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

_RATE = re.compile(r"(\w+) ([0-9.]+(?:e[+-]?[0-9]+)?)/s")
_CONCURRENCY = re.compile(r"closed ([0-9]+)")


@dataclass(frozen=True, slots=True)
class OfferedLoad:
    """`amount` is requests per second for a rate, requests under way for a concurrency."""

    kind: Literal["rate", "concurrency"]
    amount: float


def offered_load(level: str) -> OfferedLoad | None:
    """The load of a level that one number describes; None for others, such as a ramp or a burst."""
    if found := _CONCURRENCY.fullmatch(level):
        return OfferedLoad("concurrency", float(found[1]))
    if found := _RATE.fullmatch(level):
        return OfferedLoad("rate", float(found[2]))
    return None
