"""Where made checkpoints are kept."""

from __future__ import annotations

import os
from pathlib import Path


def cache_root() -> Path:
    """`$LLMBENCH_CACHE`, or `~/.cache/llmbench`."""
    chosen = os.environ.get("LLMBENCH_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "llmbench"
