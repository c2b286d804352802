"""Which part of a round counts: its warm-up and cool-down left out by the workload's rules.

Nothing is thrown away: the rules stand in the manifest, and every window is computed anew from the stamps.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmbench.results.truncation import BATCH, MIN_BATCHES, mser5
from llmbench.results.units import Floats

_NS_PER_S = 1e9
_FORM = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(%|s|requests)")


class Rules(NamedTuple):
    """`measure.warmup` and `measure.cooldown` of a workload as it is stored; None leaves nothing out."""

    warmup: str | None
    cooldown: str | None

    @classmethod
    def of(cls, workload: Mapping[str, object]) -> Rules:
        """Those of the workload in a manifest; neither in runs that are older than the rules."""
        measure = workload.get("measure")
        found = measure if isinstance(measure, dict) else {}
        return cls(found.get("warmup"), found.get("cooldown"))

    def __str__(self) -> str:
        return f"warm-up {self.warmup or 'none'}, cool-down {self.cooldown or 'none'}"


@dataclass(frozen=True, slots=True)
class Window:
    """The part of one round that counts: requests due, and tokens stamped, from `start_ns` to `end_ns`, both included.

    `first_ns` is when the round's first request was due, `last_ns` when its last answer ended (NaN when none did);
    where nothing is left out they are the window's own ends. `notes` say where a rule could not be followed, `is_void`
    that together they would have left nothing, so that everything counts.
    """

    start_ns: float
    end_ns: float
    first_ns: float
    last_ns: float
    notes: tuple[str, ...] = ()
    is_void: bool = False

    @property
    def cuts_start(self) -> bool:
        return self.start_ns > self.first_ns

    @property
    def cuts_end(self) -> bool:
        return self.end_ns < self.last_ns

    @property
    def seconds(self) -> float:
        """How long it is, in s; 0 where no answer ended."""
        return 0.0 if np.isnan(self.end_ns) else (self.end_ns - self.start_ns) / _NS_PER_S

    @property
    def whole_seconds(self) -> float:
        """From the first due request to the last answer, in s; 0 where no answer ended."""
        return 0.0 if np.isnan(self.last_ns) else (self.last_ns - self.first_ns) / _NS_PER_S

    def holds(self, stamps_ns: Floats) -> NDArray[np.bool_]:
        """Which of `stamps_ns` lie inside; NaN does not, unless nothing is left out."""
        inside = np.ones(len(stamps_ns), bool)
        if self.cuts_start:
            inside &= stamps_ns >= self.start_ns
        if self.cuts_end:
            inside &= stamps_ns <= self.end_ns
        return inside


def window_of(due_ns: Floats, end_ns: Floats, ok: NDArray[np.bool_], rules: Rules) -> Window:
    """The window of one round. `due_ns`, ascending, `end_ns` (NaN where there is none) and `ok` have an entry for each
    of its requests, of which there is at least one.

    A share is one of the time from the first due request to the last; a time and a count run from the first due request
    on, and from the last one back. What comes after the last due request, when no new load arrives, is part of any
    cool-down. Requests that are due at one instant stay together. `auto` gives the E2E latencies of successful requests
    to mser5, for the cool-down in reverse order.
    """
    first_ns, last_due_ns = float(due_ns[0]), float(due_ns[-1])
    last_ns = float(np.nanmax(end_ns)) if np.isfinite(end_ns).any() else float("nan")
    whole = Window(first_ns, last_ns, first_ns, last_ns)
    if rules == (None, None) or np.isnan(last_ns):
        return whole
    e2e_ns = np.where(ok, end_ns - due_ns, np.nan)
    notes = []
    forward = _reach(due_ns - first_ns, e2e_ns, rules.warmup)
    backward = _reach((last_due_ns - due_ns)[::-1], e2e_ns[::-1], rules.cooldown)
    for end, reach in (("warm-up", forward), ("cool-down", backward)):
        if isinstance(reach, str):
            notes.append(f"{end} auto: {reach}, so nothing is left out there")
    start_ns = first_ns + forward if isinstance(forward, float) else whole.start_ns
    stop_ns = min(last_ns, last_due_ns - backward) if isinstance(backward, float) else whole.end_ns
    window = Window(start_ns, stop_ns, first_ns, last_ns, tuple(notes))
    if stop_ns > start_ns and window.holds(due_ns).any():
        return window
    note = f"{rules} would leave nothing, so nothing is left out"
    return Window(first_ns, last_ns, first_ns, last_ns, (*notes, note), is_void=True)


def _reach(offsets_ns: Floats, e2e_ns: Floats, rule: str | None) -> float | str | None:
    """How far from its end of the load, in ns, a rule leaves requests out; in words why `auto` found nothing.

    `offsets_ns` ascend from 0, requests that failed have an `e2e_ns` of NaN.
    """
    if rule is None:
        return None
    if rule == "auto":
        known = np.flatnonzero(np.isfinite(e2e_ns))
        num = mser5(e2e_ns[known])
        if num is None:
            few = len(known) < BATCH * MIN_BATCHES
            return (
                f"fewer than {BATCH * MIN_BATCHES} answers" if few else "no steady part begins in its half of the load"
            )
        return _beyond(offsets_ns, int(known[num - 1]) + 1 if num else 0)
    found = _FORM.fullmatch(rule)
    if found is None:
        return "not a rule that this llmbench knows"
    value = float(found[1])
    if found[2] == "requests":
        return _beyond(offsets_ns, int(value))
    return value * _NS_PER_S if found[2] == "s" else value / 100 * float(offsets_ns[-1])


def _beyond(offsets_ns: Floats, num: int) -> float:
    """Where the first request lies that is none of the first `num`, nor due at one instant with the last of them."""
    if num == 0:
        return 0.0
    later = offsets_ns[offsets_ns > offsets_ns[min(num, len(offsets_ns)) - 1]]
    return float(later[0]) if len(later) else float("inf")


def described(windows: Mapping[int, Window], num_inside: int, num_whole: int, rules: Rules) -> str:
    """For people: the rules, and what of one engine at one load counts, in `num_inside` of `num_whole` requests."""
    if rules == (None, None):  # said of all engines in the same words, and so once
        return f"{rules}: every request counts, from the first due to the last end"
    known = [window for window in windows.values() if window.whole_seconds > 0]
    seconds, whole_s = (sum(getattr(window, name) for window in known) for name in ("seconds", "whole_seconds"))
    rounds = f" in {len(windows)} rounds" if len(windows) > 1 else ""
    if any(window.cuts_start or window.cuts_end for window in known):
        first = _range([(window.start_ns - window.first_ns) / _NS_PER_S for window in known])
        last = _range([(window.last_ns - window.end_ns) / _NS_PER_S for window in known])
        counted = (
            f"{num_inside:,} of {num_whole:,} requests count, in {seconds:.4g} of {whole_s:.4g} s{rounds}; "
            f"left out: the first {first}, the last {last}"
        )
    else:
        counted = f"all {num_whole:,} requests count, from first due to last end ({whole_s:.4g} s{rounds})"
    notes = dict.fromkeys(note for window in windows.values() for note in window.notes)
    return "; ".join([f"{rules}: {counted}", *notes])


def _range(seconds: list[float]) -> str:
    low, high = f"{min(seconds):.3g}", f"{max(seconds):.3g}"
    return f"{low} s" if low == high else f"{low} to {high} s"
