"""What is wrong with a workload, said to the person who wrote it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

FieldPath = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to mend. `where` is `file:line:column` or the override at fault; `field` is a dotted path."""

    where: str
    message: str
    field: str | None = None

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.field is None else f"{self.where}: {self.field}: {self.message}"


class WorkloadError(Exception):
    """A workload cannot be used as asked. The text has one line per problem; `problems` holds them one by one."""

    def __init__(self, message: str, problems: Iterable[Problem] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)

    @classmethod
    def of(cls, problems: Iterable[Problem]) -> WorkloadError:
        found = tuple(problems)
        return cls("\n".join(str(problem) for problem in found), found)


def nearest(given: str, allowed: Iterable[str]) -> str | None:
    """The allowed name that `given` was most likely meant to be, None when nothing is close."""
    found = difflib.get_close_matches(given.lower(), list(allowed), n=1, cutoff=0.6)
    return found[0] if found else None


def did_you_mean(given: str, allowed: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or nothing."""
    name = nearest(given, allowed)
    return "" if name is None else f"; did you mean {name!r}?"


def reason_of(error: Exception) -> str:
    """Why a file could not be read, for a sentence that names the file itself."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def shorten(value: object, limit: int = 60) -> str:
    """`value` as it would be quoted in a sentence, at most `limit` characters."""
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
