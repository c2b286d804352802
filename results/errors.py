"""What this room raises."""

from __future__ import annotations


class RunError(Exception):
    """A run directory that cannot be written or read. The message says what is wrong, where, and what helps."""
