"""What the measured tokens took in energy and money: readings of energy meters, and the price that a workload gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from llmbench.results.run import Run
from llmbench.results.samples import Samples
from llmbench.results.server_side import server_side

PER_MILLION = 1e6
_S_PER_HOUR = 3600.0


class Price(NamedTuple):
    """What an hour of what an engine runs on costs; `currency` is three letters of ISO 4217."""

    per_hour: float
    currency: str


def price_of(run: Run, engine: str) -> Price | None:
    """The price that the workload gives for the engine with this label; None where it gives none."""
    listed = run.manifest.workload.get("engines")
    for each in listed if isinstance(listed, list) else ():
        price = each.get("price") if isinstance(each, dict) and each.get("label") == engine else None
        if isinstance(price, dict) and isinstance(per_hour := price.get("per_hour"), int | float):
            return Price(float(per_hour), str(price.get("currency")))
    return None


def currency_of(run: Run) -> str | None:
    """The currency of the workload's prices, which is one for all engines; None where no engine has a price."""
    prices = (price_of(run, engine.label) for engine in run.manifest.engines)
    return next((price.currency for price in prices if price is not None), None)


def cost_per_million(samples: Samples, tokens_per_s: float | None) -> float | None:
    """Price of the time that a million tokens take at `tokens_per_s`; None without a price or tokens."""
    price = price_of(samples.run, samples.engine)
    if price is None or not tokens_per_s:
        return None
    return PER_MILLION * price.per_hour / _S_PER_HOUR / tokens_per_s


def energy_per_token(meter: str) -> Callable[[Samples], float | None]:
    """J of the energy counter `meter` in the measured rounds ÷ output tokens; None where it was not read."""

    def joules(samples: Samples) -> float | None:
        # The counters were read around whole rounds.
        whole = samples.whole
        risen = server_side(samples).increase(meter)
        tokens = float(np.where(whole.ok, np.nan_to_num(whole.counts("output_tokens")), 0.0).sum())
        return None if risen is None or not tokens else risen / tokens

    return joules
