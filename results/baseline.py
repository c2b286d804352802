"""A run boiled down to what a later one is compared with: a small JSON file, one figure a line, to keep in git."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llmbench.results.errors import RunError
from llmbench.results.figures import FIGURE_BY_NAME, Figure
from llmbench.results.matching import Identity, Measured, Side, side_of, without_folders
from llmbench.results.run import Run

BASELINE_VERSION = 1


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class _StoredFigure(_Stored):
    """`value` is None where it was infinite: too many requests failed."""

    value: float | None
    n: int = Field(ge=1)
    failed: int = Field(ge=0)
    rounds: int = Field(ge=1)
    log_error: float | None = Field(ge=0)
    freedom: float = Field(ge=0)
    across_rounds: bool
    influence: tuple[float, ...] | None = None
    lacking: str | None = None


class _StoredRow(_Stored):
    engine: str
    level: str
    num_requests: int
    num_rounds: int
    model: str | None = None
    model_digest: str | None = None
    dtype: str | None = None
    figures: dict[str, _StoredFigure]


class _StoredBaseline(_Stored):
    baseline_version: int
    name: str
    prompts_digest: str
    finished: bool
    invalid: tuple[str, ...]
    hardware: dict[str, Any]
    workload: dict[str, Any]
    measured: tuple[_StoredRow, ...]


def open_side(path: Path) -> Side:
    """A run directory or a baseline file, as one side of a comparison. Raises RunError if it is neither."""
    if path.is_file():
        return read_baseline(path)
    if not path.exists():
        raise RunError(f"There is no {path}; give a run directory, or a file of `llmbench gate RUN --save FILE`.")
    # "." has no name of its own.
    return side_of(Run.open(path), path.resolve().name)


def to_json(side: Side) -> str:
    """The file's text. Figures keep six digits, more than any of them is sure of."""
    identity = side.identity
    head = {
        "baseline_version": BASELINE_VERSION,
        "name": side.name,
        "prompts_digest": identity.prompts_digest,
        "finished": identity.finished,
        "invalid": list(identity.invalid),
        "hardware": dict(sorted(identity.hardware.items())),
        "workload": dict(sorted(identity.workload.items())),
    }
    rows = ",\n".join(_row_text(measured) for measured in side.measured)
    body = json.dumps(head, indent=2, ensure_ascii=False)
    return f'{body[:-2]},\n  "measured": [\n{rows}\n  ]\n}}\n'


def read_baseline(path: Path) -> Side:
    """The side stored in `path`. Raises RunError with the field that is wrong, and for a version newer than this."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise RunError(f"{path} is no baseline file, nor text at all.") from None
    return parse_baseline(text, str(path))


def parse_baseline(text: str, path: str) -> Side:
    """The side in a baseline file's text; `path` names it in a RunError."""
    try:
        stored = json.loads(text, parse_constant=_no_constant)
    except ValueError as error:
        raise RunError(f"{path} is no baseline file: {error}. `llmbench gate RUN --save {path}` writes one.") from None
    version = stored.get("baseline_version") if isinstance(stored, dict) else None
    if version != BASELINE_VERSION:
        raise RunError(
            f"{path} has baseline_version {version}, and this llmbench reads {BASELINE_VERSION}; "
            f"write it again with `llmbench gate RUN --save {path}`."
        )
    try:
        found = _StoredBaseline.model_validate(stored)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RunError(
            f"{path}: {where}: {first['msg']}; write the file again with `llmbench gate RUN --save`."
        ) from None
    identity = Identity(
        workload=without_folders(found.workload),
        prompts_digest=found.prompts_digest,
        hardware=found.hardware,
        finished=found.finished,
        invalid=found.invalid,
    )
    return Side(found.name, identity, tuple(_measured(row) for row in found.measured))


def _row_text(measured: Measured) -> str:
    fields: dict[str, Any] = {
        "engine": measured.engine,
        "level": measured.level,
        "num_requests": measured.num_requests,
        "num_rounds": measured.num_rounds,
        "model": measured.model,
        "model_digest": measured.model_digest,
        "dtype": measured.dtype,
    }
    head = ", ".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in fields.items() if value is not None)
    figures = ",\n".join(
        f"      {json.dumps(name)}: {json.dumps(_figure_fields(figure))}" for name, figure in measured.figures.items()
    )
    return f'    {{{head}, "figures": {{\n{figures}\n    }}}}'


def _figure_fields(figure: Figure) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "value": _rounded(figure.value),
        "log_error": None if figure.log_error is None else _rounded(figure.log_error),
        "freedom": float(f"{figure.freedom:.3g}"),
        "n": figure.n,
        "failed": figure.num_failed,
        "rounds": figure.num_rounds,
        "across_rounds": figure.across_rounds,
    }
    if figure.influence is not None and figure.across_rounds:
        # Three digits: it is the error of an error. Blocks are not kept, as a gate takes no verdict from them.
        fields["influence"] = [float(f"{part:.3g}") for part in figure.influence]
    return fields if figure.lacking is None else {**fields, "lacking": figure.lacking}


def _rounded(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _measured(row: _StoredRow) -> Measured:
    figures = {
        name: Figure(
            value=math.inf if stored.value is None else stored.value,
            n=stored.n,
            num_failed=stored.failed,
            num_rounds=stored.rounds,
            log_error=stored.log_error,
            freedom=stored.freedom,
            across_rounds=stored.across_rounds,
            lacking=stored.lacking,
            influence=None if stored.influence is None else np.array(stored.influence),
        )
        for name, stored in row.figures.items()
        if name in FIGURE_BY_NAME
    }
    return Measured(
        engine=row.engine,
        level=row.level,
        figures=figures,
        num_requests=row.num_requests,
        num_rounds=row.num_rounds,
        model=row.model,
        model_digest=row.model_digest,
        dtype=row.dtype,
    )


def _no_constant(name: str) -> float:
    raise ValueError(f"it holds {name}, which is no number")
