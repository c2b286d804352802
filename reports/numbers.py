"""Numbers as a reader sees them: three significant digits, `n/a` for what was not measured, ∞ for what never came."""

from __future__ import annotations

import math

from llmbench.results.statistics import Distribution, Interval, required_n

NOT_AVAILABLE = "n/a"
INFINITE = "∞"
THIN_SPACE = "\u2009"
NO_BREAK = "\u00a0"


def digits(value: float | None) -> str:
    """`value` to three significant digits, whole from 100 on: `0.0123`, `1.23`, `12.3`, `1 234`."""
    if value is None or math.isnan(value):
        return NOT_AVAILABLE
    if math.isinf(value):
        return INFINITE if value > 0 else f"−{INFINITE}"
    if value == 0:
        return "0"
    size = abs(value)
    decimals = 0 if size >= 99.95 else 1 if size >= 9.995 else 2 if size >= 0.9995 else 2 - math.floor(math.log10(size))
    shown = f"{value:,.{min(decimals, 6)}f}" if size >= 1e-6 else f"{value:.2g}"
    return shown.replace(",", THIN_SPACE if size >= 10_000 else "").replace("-", "−")


def count(value: int | None) -> str:
    """A whole number, grouped from five digits on."""
    return NOT_AVAILABLE if value is None else f"{value:,}".replace(",", THIN_SPACE if abs(value) >= 10_000 else "")


def percent(share: float | None) -> str:
    """A share as a percentage that is 100 or 0 only if it is exactly that."""
    if share is None:
        return NOT_AVAILABLE
    if share in (0.0, 1.0):
        return f"{share:.0%}".replace("%", f"{NO_BREAK}%")
    shown = min(max(share * 100, 0.01), 99.99)
    decimals = 0 if math.isclose(shown, round(shown)) else 2 if shown < 1 or shown > 99 else 1
    return f"{shown:.{decimals}f}{NO_BREAK}%"


def quantile(distribution: Distribution | None, share: float) -> str:
    """The quantile at `share`; where there are too few samples for it, how many it takes."""
    if distribution is None:
        return NOT_AVAILABLE
    value = distribution.at(share)
    return f"needs ≥{NO_BREAK}{required_n(share)}" if value is None else digits(value)


def interval(found: Interval | None) -> str:
    """`low–high`, empty where there is no interval, or nothing but failures in it."""
    return "" if found is None or math.isinf(found.low) else f"{digits(found.low)}–{digits(found.high)}"


def bytes_(size: int) -> str:
    """A size in the largest binary unit below it."""
    amount, unit = float(size), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    return f"{digits(amount)}{NO_BREAK}{unit}"
