"""The engines as they answered, and the machine they ran on."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping

from llmbench.reports.material import Material
from llmbench.reports.numbers import NOT_AVAILABLE, bytes_
from llmbench.reports.section import Section, View

Pairs = list[tuple[str, str]]


def _view(material: Material) -> View:
    manifest = material.manifest
    engines = [
        {
            "engine": engine,
            "command": None if engine.command is None else shlex.join(engine.command),
            "details": [
                *flattened(engine.details),
                *([("packages", f"{len(engine.packages)}, listed in manifest.json")] if engine.packages else []),
            ],
        }
        for engine in manifest.engines
    ]
    return {"engines": engines, "groups": _groups(manifest.environment)}


def _groups(environment: Mapping[str, object]) -> list[tuple[str, Pairs]]:
    """What stands alone first, then each nested group under its name."""
    alone = {name: value for name, value in environment.items() if not isinstance(value, Mapping)}
    groups = [("machine", list(flattened(alone)))] if alone else []
    for name, value in environment.items():
        if isinstance(value, Mapping):
            groups.append((_words(name), list(flattened(value))))
    return groups


def flattened(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(name, value) in words for every leaf, names of nested ones joined."""
    for name, value in values.items():
        words = f"{prefix} {_words(name)}".strip()
        if isinstance(value, Mapping):
            yield from flattened(value, words)
        elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
            numbered = {str(number): item for number, item in enumerate(value, start=1)}
            yield from flattened(numbered, words)
        else:
            yield words.removesuffix(" bytes"), _shown(name, value)


def _shown(name: str, value: object) -> str:
    if value is None:
        return NOT_AVAILABLE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and name.endswith("_bytes"):
        return bytes_(value)
    if isinstance(value, list):
        return ", ".join(_shown(name, item) for item in value) or "none"
    return str(value)


def _words(name: str) -> str:
    return name.replace("_", " ")


ENVIRONMENT = Section("environment", "Engines and machine", "Environment", _view, "environment.html")
