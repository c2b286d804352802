"""`a.b.c=value` from the command line, put into a workload's data before it is validated."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from llmbench.workloads.errors import FieldPath, WorkloadError, nearest, shorten
from llmbench.workloads.yaml_document import parse_text

_INDEX = re.compile(r"\[(\d{1,6})\]")


@dataclass(frozen=True, slots=True)
class Override:
    """One override as it took effect. `path` is where in the data; `text` is what the user wrote."""

    text: str
    path: FieldPath

    @property
    def where(self) -> str:
        return f"--set {self.text}"


def apply_override(data: dict[str, Any], text: str) -> Override:
    """Set one field of `data`, in place. Mappings on the way that are absent or null are made.

    The value is read as YAML. A part of the path may be a list index, `engines.0.url` or `engines[0].url`; an engine
    may also be named, `engines.vllm.url`. Raises WorkloadError that quotes the override.
    """
    dotted, equals, raw = text.partition("=")
    wanted = [part.strip() for part in _INDEX.sub(r".\1", dotted).split(".")]
    if not equals or not all(wanted):
        raise WorkloadError(f"--set {text}: not an override; write it as a.b.c=value, e.g. traffic.arrivals.rate=8")
    value = parse_text(raw, f"--set {text}").data
    path: list[str | int] = []
    container: Any = data
    for position, part in enumerate(wanted):
        is_last = position == len(wanted) - 1
        if isinstance(container, list):
            index = _list_index(container, part, path, text)
            path.append(index)
            if is_last:
                container[index] = value
            else:
                container[index] = container = _opened(container[index], path, text)
        elif isinstance(container, dict):
            path.append(part)
            if is_last:
                container[part] = value
            else:
                container[part] = container = _opened(container.get(part), path, text)
    return Override(text, tuple(path))


def _opened(value: Any, path: list[str | int], text: str) -> Any:
    if value is None:
        return {}
    if not isinstance(value, dict | list):
        field = ".".join(map(str, path))
        raise WorkloadError(
            f"--set {text}: field {field!r} is {shorten(value)} and has no fields of its own; "
            f"set the whole of it, {field}='{{…}}'"
        )
    return value


def _list_index(items: list[Any], part: str, path: list[str | int], text: str) -> int:
    field = ".".join(map(str, path))
    if part.isdecimal() and len(part) <= 6:
        if int(part) < len(items):
            return int(part)
        last = len(items) - 1
        has = "is empty" if last < 0 else f"has the indexes 0 to {last}"
        raise WorkloadError(f"--set {text}: {field!r} {has}, given {part}")
    names: list[str] = []
    for index, item in enumerate(items):
        if isinstance(item, dict):
            own = [str(item[key]) for key in ("label", "name") if key in item]
            if part in own:
                return index
            names += own
    guess = nearest(part, names)
    hint = f"; did you mean {guess!r}?" if guess else ","
    known = f" or one of {', '.join(dict.fromkeys(names))}" if names else ""
    raise WorkloadError(f"--set {text}: {field!r} is a list, given {part!r}{hint} allowed: an index from 0{known}")
