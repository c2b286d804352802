"""What is left out at either end of a load: nothing, a share, a time, a number of requests, or what a rule finds."""

from __future__ import annotations

import re
from typing import Annotated, Literal, NamedTuple

from pydantic import BeforeValidator, Field

from llmbench.workloads.base import refuse

ALLOWED = "none, auto, a share such as 10%, a time such as 5 s, or a count such as 20 requests"
_PATTERN = r"^(auto|[0-9]+(\.[0-9]+)? ?(%|s|requests))$"
_FORM = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(%|s|requests)")


class Amount(NamedTuple):
    """`value` is a percentage of the time in which requests were due, seconds, or a number of requests."""

    value: float
    unit: Literal["%", "s", "requests"]


def amount_of(truncation: str | None) -> Amount | None:
    """What is left out; None where that is nothing, or up to a rule."""
    if truncation in (None, "auto"):
        return None
    found = _FORM.fullmatch(truncation)
    assert found is not None, "validated"
    unit: Literal["%", "s", "requests"] = found[2]  # type: ignore[assignment]
    return Amount(float(found[1]), unit)


def _canonical(given: object) -> object:
    """`none` is null, and there is one spelling of everything else: `10%`, `5 s`, `20 requests`."""
    if given is None or given == "none":
        return None
    found = _FORM.fullmatch(given) if isinstance(given, str) else None
    if given != "auto" and found is None:
        refuse(None, f"given {given!r}, allowed: {ALLOWED}")
    if found is None:
        return given
    value, unit = float(found[1]), found[2]
    if not 0 < value <= 1e6 or (unit == "%" and value >= 100) or (unit == "requests" and not value.is_integer()):
        refuse(None, f"given {given!r}, allowed: {ALLOWED}; more than 0, less than 100%, whole requests")
    return f"{value:.15g}{'' if unit == '%' else ' '}{unit}"


Truncation = Annotated[
    Annotated[str, Field(pattern=_PATTERN)] | None,
    BeforeValidator(_canonical, json_schema_input_type=Annotated[str, Field(pattern=rf"^none$|{_PATTERN}")] | None),
]
