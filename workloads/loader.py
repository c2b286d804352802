"""A workload's YAML → a validated WorkloadSpec, or a WorkloadError that names every place at fault."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from llmbench.workloads.engine_spec import engine_mapping
from llmbench.workloads.errors import FieldPath, Problem, WorkloadError, nearest, reason_of, shorten
from llmbench.workloads.overrides import Override, apply_override
from llmbench.workloads.problems import Where, dotted, problems_of
from llmbench.workloads.shipped import ShippedWorkload, shipped, shipped_paths
from llmbench.workloads.spec import EngineSpec, WorkloadSpec
from llmbench.workloads.template import template
from llmbench.workloads.yaml_document import MAX_BYTES, Document, parse_bytes

__all__ = ["Problem", "ShippedWorkload", "WorkloadError", "json_schema", "load", "loads", "shipped", "template"]

# Values that name a file or folder; `*` is every entry of a list. A model may also be a name, the others never.
_MODEL_FIELDS = (("model",), ("engines", "*", "model"))
_PROMPT_PATHS = (("path",), ("prompt_tokens", "path"), ("output_tokens", "path"), ("turns", "path"))
_DATA_FIELDS = (
    ("traffic", "arrivals", "path"),
    *(("prompts", *path) for path in _PROMPT_PATHS),
    *(("prompts", "populations", "*", "prompts", *path) for path in _PROMPT_PATHS),
)
_PATH_FIELDS = (
    ("tokenizer",),
    ("engines", "*", "tls_ca"),
    *_DATA_FIELDS,
)
# What an override such as engines.reference.url=… finds in a workload that leaves its engines out.
_DEFAULT_ENGINES: tuple[EngineSpec, ...] = WorkloadSpec.model_fields["engines"].default


def load(source: str | Path, overrides: Sequence[str] = ()) -> WorkloadSpec:
    """The workload in a file, or the shipped one of that name, with `a.b.c=value` overrides applied in order.

    Relative paths are resolved against the file's folder, those in overrides against the working directory. A `model`
    that is neither an existing folder nor begins with ./ ../ / or ~ stays as it is. Raises WorkloadError, also for a
    file of prompts, lengths or a trace that is not there.
    """
    path = _find(source)
    name = str(source)
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise WorkloadError(f"{name}: the workload cannot be read: {reason_of(error)}") from error
    shown = path.name if name in shipped_paths() else name
    return _validate(parse_bytes(raw, shown), path.parent, overrides, files_exist=True)


def loads(text: str, source: str = "<text>", overrides: Sequence[str] = (), folder: Path | None = None) -> WorkloadSpec:
    """The workload in `text`, which errors call `source`; `folder` is what relative paths start from."""
    return _validate(parse_bytes(text.encode("utf-8", errors="surrogatepass"), source), folder or Path.cwd(), overrides)


@cache
def json_schema() -> dict[str, Any]:
    """The JSON Schema of a workload, for editors to complete and check."""
    schema = WorkloadSpec.model_json_schema(mode="validation")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "llmbench workload"}


def _find(source: str | Path) -> Path:
    names = shipped_paths()
    if isinstance(source, str) and source in names:
        return names[source]
    path = Path(source).expanduser()
    try:
        if path.is_dir():
            raise WorkloadError(f"{source}: is a folder, allowed: a workload's YAML file")
        if path.exists():
            return path
    except (OSError, ValueError) as error:
        raise WorkloadError(f"{str(source)!r}: not the name of a file: {reason_of(error)}") from error
    guess = nearest(path.stem, names) if path.name else None
    hint = f"; did you mean {guess!r}?" if guess else "."
    raise WorkloadError(
        f"{source}: there is no such file and no shipped workload of that name{hint} Shipped: {', '.join(names)}"
    )


def _validate(document: Document, folder: Path, overrides: Sequence[str], *, files_exist: bool = False) -> WorkloadSpec:
    data = document.data
    if data is None:
        raise WorkloadError(f"{document.source}: the file is empty; `llmbench workloads init` writes one to start from")
    if not isinstance(data, dict):
        kind = "a list" if isinstance(data, list) else "a single value"
        problem = f"the file holds {kind}, allowed: a mapping with the fields {', '.join(WorkloadSpec.model_fields)}"
        raise WorkloadError.of([Problem(document.where(()), problem)])
    _normalise_engines(document)
    _resolve_paths(data, folder, None)
    applied: list[Override] = []
    if overrides:
        data.setdefault("engines", [{"name": engine.name} for engine in _DEFAULT_ENGINES])
    for text in overrides:
        applied.append(apply_override(data, text))
        _normalise_engines(document)
        _resolve_paths(data, Path.cwd(), applied[-1].path)

    def where(path: FieldPath, at_key: bool) -> str:
        for override in reversed(applied):
            if override.path == path[: len(override.path)]:
                return override.where
        for made in (path, path[:-1]):  # neither the field nor what holds it is from the file: an override made it
            if made not in document.values:
                for override in reversed(applied):
                    if made == override.path[: len(made)]:
                        return override.where
        return document.where(path, key=at_key)

    try:
        spec = WorkloadSpec.model_validate(data)
    except ValidationError as error:
        raise WorkloadError.of(problems_of(error, data, json_schema(), where)) from error
    if files_exist and (missing := list(_missing_files(data, where))):
        raise WorkloadError.of(missing)
    return spec


def _missing_files(data: dict[str, Any], where: Where) -> Iterator[Problem]:
    for pattern in _DATA_FIELDS:
        for field, container in _matches(data, pattern):
            path = container[field[-1]]
            if not _is_there(path):
                yield Problem(where(field, False), f"there is no file {shorten(path, 200)}", f"field {dotted(field)!r}")


def _is_there(path: str) -> bool:
    try:
        return Path(path).exists()
    except OSError:
        return True  # it cannot be looked at; whoever opens it says why


def _normalise_engines(document: Document) -> None:
    """Rewrite `reference` and `vllm: {…}` to `{name: …}`, so that one path leads to a field however it was written."""
    engines = document.data.get("engines")
    if not isinstance(engines, list):
        return
    for index, item in enumerate(engines):
        mapping = engine_mapping(item)
        if mapping is item:
            continue
        engines[index] = mapping
        here = ("engines", index)
        if isinstance(item, dict):
            [name] = item
            inner = (*here, name)
            for marks in (document.values, document.keys):
                moved = {
                    (*here, *path[len(inner) :]): mark
                    for path, mark in marks.items()
                    if path[: len(inner)] == inner and len(path) > len(inner)
                }
                marks.update(moved)


def _resolve_paths(data: dict[str, Any], folder: Path, only: FieldPath | None) -> None:
    """Make paths absolute, in place. With `only`, just those at or below that path."""
    for pattern in (*_MODEL_FIELDS, *_PATH_FIELDS):
        for field, container in _matches(data, pattern):
            if only is None or field[: len(only)] == only:
                container[field[-1]] = _resolved(container[field[-1]], folder, is_model=pattern in _MODEL_FIELDS)


def _matches(data: Any, pattern: tuple[str, ...], at: FieldPath = ()) -> Iterator[tuple[FieldPath, dict[Any, Any]]]:
    """Each text that is not empty at `pattern`, as its path and the mapping that holds it."""
    part, *rest = pattern
    if part == "*":
        for index, item in enumerate(data if isinstance(data, list) else []):
            yield from _matches(item, tuple(rest), (*at, index))
    elif isinstance(data, dict) and part in data:  # anything else is not what it should be: validation says so
        if rest:
            yield from _matches(data[part], tuple(rest), (*at, part))
        elif isinstance(data[part], str) and data[part]:
            yield (*at, part), data


def _resolved(value: str, folder: Path, *, is_model: bool) -> str:
    explicit = value in (".", "..") or value.startswith(("./", "../", "/", "~"))
    if is_model and not explicit and value.startswith(("synthetic:", "bundled:")):
        return value
    try:
        path = folder / Path(value).expanduser()
        return str(path.resolve()) if explicit or not is_model or path.is_dir() else value
    except (OSError, ValueError, RuntimeError):
        return value  # no path at all, or a ~user nobody knows; whoever opens it says so
