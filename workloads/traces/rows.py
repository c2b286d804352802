"""One request of a trace, and the CSV table that several traces come as."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llmbench.workloads.errors import WorkloadError, did_you_mean, shorten


@dataclass(frozen=True, slots=True)
class TraceRow:
    """A recorded request: when it came, in s, and how many tokens it had.

    `block_ids` name the prompt's blocks of `block_tokens` tokens from its beginning; requests whose ids begin alike had
    prompts that began alike. Empty where the trace does not say.
    """

    where: str
    time_s: float
    prompt_tokens: int
    output_tokens: int
    block_ids: tuple[int, ...] = ()
    block_tokens: int = 0

    def since(self, start_s: float) -> TraceRow:
        return replace(self, time_s=self.time_s - start_s)


def csv_rows(path: str, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """(`path:line`, the fields by their column) for each row. Raises WorkloadError for a missing column or field."""
    with Path(path).open(encoding="utf-8-sig", newline="") as file:
        table = csv.DictReader(file, strict=True)
        try:
            present = list(table.fieldnames or ())
            for column in columns:
                if column not in present:
                    hint = did_you_mean(column, present)
                    raise WorkloadError(
                        f"{path}:1: the trace has no column {column!r}{hint or ';'} its columns are: "
                        f"{', '.join(map(repr, present)) or 'none'}"
                    )
            for fields in table:
                where = f"{path}:{table.line_num}"
                missing = [column for column in columns if fields[column] is None]
                if missing:
                    raise WorkloadError(f"{where}: the row ends before its column {missing[0]!r}")
                yield where, fields
        except csv.Error as error:
            raise WorkloadError(f"{path}:{table.line_num}: not valid CSV: {error}") from error


def whole(where: str, column: str, value: object) -> int:
    """A count of tokens, 0 or more. Raises WorkloadError with the place."""
    number = finite(where, column, value, "a whole number, 0 or more")
    if number < 0 or not number.is_integer():
        raise WorkloadError(f"{where}: {column}: given {shorten(value)}, allowed: a whole number, 0 or more")
    return int(number)


def finite(where: str, column: str, value: object, allowed: str = "a number") -> float:
    """A number. Raises WorkloadError with the place."""
    try:
        number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise WorkloadError(f"{where}: {column}: given {shorten(value)}, allowed: {allowed}")
    return number
