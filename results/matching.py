"""What of one measurement can be held against what of another: the same questions at the same load, on the same rig."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from llmbench.results.figures import Figure, figures_of
from llmbench.results.manifest import Manifest
from llmbench.results.run import Run
from llmbench.results.samples import each_samples

# What a workload asks; its engines are what is compared, and how often it asks is no part of the question.
_NOT_ASKED = ("name", "description", "engines")
# Which folder a file lies in is no part of the question either: a baseline in git is read on other machines.
_PLACES = ("path", "tokenizer", "model")
_HARDWARE = ("cpu", "architecture", "cores_physical", "cores_logical", "cores_usable", "cpu_quota", "hypervisor")


@dataclass(frozen=True, slots=True)
class Identity:
    """What two measurements must share for their figures to mean the same.

    `workload` holds every field that shapes the questions, flat (`traffic.arrivals.rate`), files by their name alone:
    whether they held the same is told by `prompts_digest`. `hardware` describes the
    machine of the harness. `invalid` says why the figures must not be used, empty if they may.
    """

    workload: Mapping[str, Any]
    prompts_digest: str
    hardware: Mapping[str, Any]
    finished: bool
    invalid: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        """Short hex digest of the hardware: equal on like machines."""
        canonical = json.dumps(self.hardware, sort_keys=True, default=str)
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class Measured:
    """One engine at one level: its figures by name. `num_requests` counts those outside the window too. `model` and
    `dtype` are what the engine says it serves."""

    engine: str
    level: str
    figures: Mapping[str, Figure]
    num_requests: int
    num_rounds: int
    model: str | None = None
    model_digest: str | None = None
    dtype: str | None = None


@dataclass(frozen=True, slots=True)
class Side:
    """A run or a stored baseline, as one side of a comparison; `name` says which."""

    name: str
    identity: Identity
    measured: tuple[Measured, ...]


@dataclass(frozen=True, slots=True)
class Flag:
    """Why figures of two sides may not mean the same. `fatal` ones forbid a verdict unless the user insists."""

    text: str
    fatal: bool


@dataclass(frozen=True, slots=True)
class Match:
    """Pairs (subject, baseline) at the same level; what stands alone is listed by sentence in `unmatched`."""

    pairs: tuple[tuple[Measured, Measured], ...]
    unmatched: tuple[str, ...]
    flags: tuple[Flag, ...] = field(default=())


def side_of(run: Run, name: str | None = None) -> Side:
    """The run as a side. All its figures are computed here."""
    manifest = run.manifest
    engines = {engine.label: engine for engine in manifest.engines}
    measured = []
    for samples in each_samples(run):
        engine = engines.get(samples.engine)
        dtype = None if engine is None else engine.details.get("dtype")
        measured.append(
            Measured(
                engine=samples.engine,
                level=samples.level,
                figures=figures_of(samples),
                num_requests=len(samples.whole),
                num_rounds=samples.num_rounds,
                model=None if engine is None else engine.model,
                model_digest=None if engine is None else engine.model_digest,
                dtype=None if dtype is None else str(dtype),
            )
        )
    return Side(name or run.path.name or str(run.path), identity_of(manifest), tuple(measured))


def identity_of(manifest: Manifest) -> Identity:
    environment = manifest.environment
    hardware = {name: environment[name] for name in _HARDWARE if environment.get(name) is not None}
    memory, gpus = environment.get("memory_bytes"), environment.get("gpus")
    if isinstance(memory, int):
        # A kernel update reserves a little more or less.
        hardware["memory_gib"] = round(memory / 2**30)
    if isinstance(gpus, list) and gpus:
        hardware["gpus"] = [gpu.get("name") if isinstance(gpu, dict) else gpu for gpu in gpus]
    workload = {key: value for key, value in manifest.workload.items() if key not in _NOT_ASKED}
    flat = dict(_flattened(without_folders(workload)))
    flat.pop("measure.rounds", None)
    return Identity(
        workload=flat,
        prompts_digest=manifest.prompts_digest,
        hardware=hardware,
        finished=manifest.status == "complete",
        invalid=manifest.invalid,
    )


def match(subject: Side, baseline: Side) -> Match:
    """The pairs of `subject` and `baseline` by engine and level; by level alone where each side has one engine.

    Nothing is left out in silence: a level or engine on one side only is named in `unmatched`.
    """
    ours, theirs = ({(each.engine, each.level): each for each in side.measured} for side in (subject, baseline))
    names = [sorted({engine for engine, _ in rows}) for rows in (ours, theirs)]
    flags = list(flags_between(subject, baseline))
    if len(names[0]) == len(names[1]) == 1 and names[0] != names[1]:
        flags.append(Flag(f"Different engines: {names[0][0]} here, {names[1][0]} in {baseline.name}.", fatal=False))
        theirs = {(names[0][0], level): each for (_, level), each in theirs.items()}
    pairs = [(each, theirs[key]) for key, each in ours.items() if key in theirs]
    unmatched = [_alone(key, subject.name, baseline.name) for key in ours if key not in theirs]
    unmatched += [_alone(key, baseline.name, subject.name) for key in theirs if key not in ours]
    for here, there in pairs:
        flags += _flags_of_pair(here, there)
    return Match(tuple(pairs), tuple(unmatched), tuple(dict.fromkeys(flags)))


def flags_between(subject: Side, baseline: Side) -> list[Flag]:
    """What is unlike about two sides as a whole."""
    flags = []
    for side in (subject, baseline):
        if side.identity.invalid:
            flags.append(Flag(f"{side.name} is invalid: {' '.join(side.identity.invalid)}", fatal=True))
        if not side.identity.finished:
            flags.append(Flag(f"{side.name} did not come to its end.", fatal=True))
    ours, theirs = subject.identity, baseline.identity
    for what, here, there in (
        ("Hardware", ours.hardware, theirs.hardware),
        ("Workload", ours.workload, theirs.workload),
    ):
        for key in sorted(here.keys() | there.keys()):
            if here.get(key) != there.get(key):
                text = (
                    f"{what} differs: {key} is {here.get(key)} in {subject.name}, {there.get(key)} in {baseline.name}."
                )
                flags.append(Flag(text, fatal=True))
    if not ours.hardware or not theirs.hardware:
        flags.append(Flag("Which hardware was measured on is not known on both sides.", fatal=False))
    if ours.workload == theirs.workload and ours.prompts_digest != theirs.prompts_digest:
        # More rounds ask more prompts, with their own salt; the recipe is the same.
        flags.append(
            Flag("The prompts differ, though made by the same recipe (more rounds, or files changed).", fatal=False)
        )
    return flags


def _flags_of_pair(ours: Measured, theirs: Measured) -> list[Flag]:
    said = []
    here, there = ours.num_requests / ours.num_rounds, theirs.num_requests / theirs.num_rounds
    if round(here) != round(there):
        counts = f"{here:.0f} here, {there:.0f} in the baseline"
        said.append(Flag(f"{ours.engine} at {ours.level}: requests per round differ, {counts}.", fatal=True))
    for what in ("model", "model_digest", "dtype"):
        mine, other = getattr(ours, what), getattr(theirs, what)
        if mine is not None and other is not None and mine != other:
            words = what.replace("_", " ")
            said.append(Flag(f"{ours.engine}: the {words} differs, {mine} against {other}.", fatal=True))
    return said


def _alone(key: tuple[str, str], has: str, lacks: str) -> str:
    engine, level = key
    return f"{engine} at {level} is in {has} and not in {lacks}."


def without_folders(workload: Mapping[str, Any]) -> dict[str, Any]:
    """The same with the last part of each absolute path in its place; nested or flat."""

    def named(key: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            return without_folders(value)
        if isinstance(value, list):
            return [named(key, each) for each in value]
        is_place = isinstance(value, str) and key.rpartition(".")[2] in _PLACES and PurePath(value).is_absolute()
        return PurePath(value).name if is_place else value

    return {key: named(key, value) for key, value in workload.items()}


def _flattened(value: Any, path: str = "") -> list[tuple[str, Any]]:
    if not isinstance(value, dict):
        return [(path, json.dumps(value) if isinstance(value, list) else value)]
    return [item for key, each in value.items() for item in _flattened(each, f"{path}.{key}" if path else key)]
