"""Settings of a workload as options on an engine's command line."""

from __future__ import annotations

from collections.abc import Mapping

from llmbench.engines.adapter import EngineError


def flags(settings: Mapping[str, object], engine: str) -> list[str]:
    """`settings` as command line options: `max_num_seqs: 8` is `--max-num-seqs=8`; true is the bare option, false and
    null leave it out. Raises EngineError for a list or a mapping."""
    options: list[str] = []
    for name, value in settings.items():
        if isinstance(value, (list, Mapping)):
            raise EngineError(f"settings.{name} of {engine} must be one value; got {value!r}.")
        if value is None or value is False:
            continue
        option = f"--{name.replace('_', '-')}"
        options.append(option if value is True else f"{option}={value}")
    return options
