"""A workload's `settings` of an engine, read with sentences for what is wrong."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from llmbench.engines.adapter import EngineError


def refuse_unknown(owner: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise EngineError for the first name in `given` that `owner` does not know, with the nearest it knows."""
    names = sorted(known)
    for name in given:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"; did you mean {near[0]}?" if near else "."
            raise EngineError(f"{owner} has no setting {name!r}. It knows {', '.join(names)}{hint}")


def mapping(engine: str, settings: Mapping[str, object], name: str) -> dict[str, Any]:
    """The setting `name` as a mapping, empty if it is not there. Raises EngineError for anything else."""
    value = settings.get(name, {})
    if not isinstance(value, Mapping):
        raise EngineError(f"settings.{name} of {engine} must map names to values; got {value!r}.")
    return dict(value)


def flag(engine: str, settings: Mapping[str, object], name: str, default: bool) -> bool:
    """The setting `name` as true or false. Raises EngineError for anything else."""
    value = settings.get(name, default)
    if not isinstance(value, bool):
        raise EngineError(f"settings.{name} of {engine} must be true or false; got {value!r}.")
    return value
