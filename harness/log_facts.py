"""What an engine that was started here says of itself in its log."""

from __future__ import annotations

import re
from pathlib import Path

from llmbench.engines.adapter import LogFacts

# Engines say it while they load; what follows may be long.
_MAX_BYTES = 4 * 2**20
_UNSET = ("None", "none", "null", "")


def read_log_facts(log: Path, facts: LogFacts | None) -> dict[str, str]:
    """The facts in `log`, by our names; without those that the engine left unset, or said nothing of."""
    if facts is None:
        return {}
    try:
        with log.open("rb") as file:
            text = file.read(_MAX_BYTES).decode("utf-8", "replace")
    except OSError:
        return {}
    line = next((line for line in reversed(text.splitlines()) if facts.mark in line), "")
    told = dict(re.findall(r"\b(\w+)=([\w.:/-]*)", line))
    return {
        ours: value
        for theirs, ours in facts.names.items()
        if (value := told.get(theirs, "").removeprefix("torch.")) not in _UNSET
    }
