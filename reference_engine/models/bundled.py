"""The trained pair that comes with the package; training/ makes it, bundled/MODEL_CARD.md describes it."""

from __future__ import annotations

from pathlib import Path

import llmbench.reference_engine
from llmbench.reference_engine.errors import ConfigError

PREFIX = "bundled:"
NAMES = ("python-target", "python-draft")


def bundled_folder(source: str) -> Path:
    """The checkpoint folder of `bundled:NAME`. Raises ConfigError with the names there are."""
    name = source.removeprefix(PREFIX)
    if name not in NAMES:
        known = ", ".join(PREFIX + known for known in NAMES)
        raise ConfigError(f"There is no model {source!r}; there are {known}.")
    (package,) = llmbench.reference_engine.__path__
    return Path(package) / "bundled" / name
