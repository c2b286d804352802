"""The workloads that come with llmbench, read from wherever it is installed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from llmbench.workloads.errors import WorkloadError
from llmbench.workloads.yaml_document import parse_bytes


@dataclass(frozen=True, slots=True)
class ShippedWorkload:
    """`description` is the YAML's own field, `stresses` the comment that the file begins with."""

    name: str
    path: Path
    description: str
    stresses: str


def shipped_paths() -> dict[str, Path]:
    """Where each shipped workload lies, by name, in alphabetical order."""
    found = (Path(str(entry)) for entry in files("llmbench.workloads").iterdir() if entry.name.endswith(".yaml"))
    return {path.stem: path for path in sorted(found)}


@cache
def _read(path: Path) -> ShippedWorkload:
    raw = path.read_bytes()
    data = parse_bytes(raw, str(path)).data
    if not isinstance(data, dict) or not isinstance(data.get("description"), str):
        raise WorkloadError(f"{path}: a shipped workload needs a description")
    return ShippedWorkload(path.stem, path, data["description"], leading_comment(raw.decode()))


def shipped() -> list[ShippedWorkload]:
    """The shipped workloads, by name."""
    return [_read(path) for path in shipped_paths().values()]


def leading_comment(text: str) -> str:
    """The comment at the top of a file, as one line."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# ").strip())
    return " ".join(line for line in lines if line)
