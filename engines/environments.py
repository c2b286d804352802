"""Virtual environments of engines, one per engine and version, so that clashing pins never meet."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from llmbench.engines.adapter import EngineError
from llmbench.engines.recipe import Recipe

Say = Callable[[str], None]

# The last thing written: an environment without it was interrupted, and is built anew.
LOCK = "llmbench-lock.txt"
# What it was made by: a recipe may change under the same version of its engine.
MADE_BY = "llmbench-recipe.json"
# What pip says of a requirement that none of its indexes has, without and with constraints of the user's own.
_NOT_FOUND = ("No matching distribution found", "ResolutionImpossible")


def default_root() -> Path:
    """`$LLMBENCH_CACHE/engines`, or `~/.cache/llmbench/engines`."""
    cache = os.environ.get("LLMBENCH_CACHE")
    return (Path(cache) if cache else Path.home() / ".cache" / "llmbench") / "engines"


@dataclass(frozen=True, slots=True)
class Environment:
    """An environment as a recipe describes it, there or not."""

    recipe: Recipe
    path: Path

    @property
    def program(self) -> Path:
        return self.path / "bin" / self.recipe.program

    @property
    def is_complete(self) -> bool:
        return (self.path / LOCK).is_file() and self.program.is_file()

    @property
    def outdated(self) -> str | None:
        """By what else than this recipe a complete environment was installed; None where it was by this one."""
        if not self.is_complete:
            return None
        try:
            made_by = json.loads((self.path / MADE_BY).read_text())
        except (OSError, ValueError):
            return "by a recipe that it does not remember"
        content = self.recipe.content()
        changed = [
            name for name, value in content.items() if not isinstance(made_by, dict) or made_by.get(name) != value
        ]
        return f"by another recipe ({', '.join(changed)})" if changed else None

    def lock(self) -> tuple[str, ...]:
        """Every distribution in it as `name==version`, as it was when installed. Raises EngineError if it is not."""
        if not self.is_complete:
            raise EngineError(f"{self.recipe.engine} {self.recipe.version} is not installed: {install_command(self)}")
        return tuple((self.path / LOCK).read_text().splitlines())

    def lock_digest(self) -> str:
        """sha256 of the lock, hex: two runs on the same one had the same packages."""
        return hashlib.sha256("\n".join(self.lock()).encode()).hexdigest()

    def num_bytes(self) -> int:
        """Size on disk; hard links count each time."""
        files = (file for file in self.path.rglob("*") if file.is_file() and not file.is_symlink())
        return sum(file.stat().st_size for file in files)


def install_command(environment: Environment) -> str:
    return f"llmbench engines install {environment.recipe.engine}"


def environment(recipe: Recipe, root: Path | None = None) -> Environment:
    """Where `recipe` is or would be installed."""
    return Environment(recipe, (root or default_root()) / f"{recipe.engine}-{recipe.version}")


def obstacles(wanted: Environment) -> list[str]:
    """What is missing on this machine before it could be installed, each a sentence with its remedy."""
    existing = next(folder for folder in (wanted.path, *wanted.path.parents) if folder.exists())
    return wanted.recipe.obstacles(shutil.disk_usage(existing).free)


def install(wanted: Environment, say: Say) -> None:
    """Build the environment, or leave a complete one that this recipe made as it is. `say` gets a line per step.

    Raises EngineError with pip's last words if a step fails; what was built is then taken away again, and what was
    there before is left.
    """
    recipe = wanted.recipe
    outdated = wanted.outdated
    if wanted.is_complete and outdated is None:
        say(f"{recipe.engine} {recipe.version} is installed already in {wanted.path}")
        return
    if outdated is not None:
        say(f"{recipe.engine} {recipe.version} was installed {outdated}, so it is made anew")
    if found := obstacles(wanted):
        raise EngineError(" ".join(found))
    python = recipe.python()
    assert python is not None
    former = wanted.path.with_name(f"{wanted.path.name}.former")
    shutil.rmtree(former, ignore_errors=True)
    if outdated is not None:
        wanted.path.rename(former)
    remove(wanted)
    wanted.path.parent.mkdir(parents=True, exist_ok=True)
    try:
        _build(wanted, python, say)
    except BaseException:
        remove(wanted)
        if outdated is not None:
            former.rename(wanted.path)
        raise
    shutil.rmtree(former, ignore_errors=True)


def _build(wanted: Environment, python: str, say: Say) -> None:
    recipe = wanted.recipe
    say(f"making {wanted.path}")
    _check_call([python, "-m", "venv", str(wanted.path)], wanted)
    pip = [str(wanted.path / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
    say(f"installing {' '.join(recipe.requirements)}")
    _pip_install(wanted, [*pip, "install", "--quiet", *recipe.requirements], say)
    if recipe.bare:
        say(f"installing {' '.join(recipe.bare)} without what they ask for")
        bare = [*pip, "install", "--quiet", "--no-deps", "--no-build-isolation", *recipe.bare]
        _check_call(bare, wanted, recipe.build_env)
    if recipe.without:
        say(f"taking out {' '.join(recipe.without)}")
        _check_call([*pip, "uninstall", "--quiet", "--yes", *recipe.without], wanted)
    for name, version in recipe.aliases.items():
        _declare(wanted, name, version)
    lock = _check_call([*pip, "freeze"], wanted)
    if not wanted.program.is_file():
        raise EngineError(
            f"{recipe.engine} {recipe.version} was installed, and has no program {recipe.program}: its recipe is "
            "wrong for this version."
        )
    (wanted.path / MADE_BY).write_text(json.dumps(recipe.content(), indent=1))
    (wanted.path / LOCK).write_text(lock)


def _pip_install(wanted: Environment, command: list[str], say: Say) -> None:
    """The recipe's own index is asked only where the usual ones do not do: those are the user's choice."""
    index = wanted.recipe.index
    try:
        _check_call(command, wanted)
    except EngineError as error:
        if not index or not any(words in str(error) for words in _NOT_FOUND):
            raise
        say(f"asking {index} too")
        _check_call([*command, "--extra-index-url", index], wanted)


def remove(unwanted: Environment) -> bool:
    """Whether there was anything to take away; only a folder under the cache's own root is ever touched."""
    if not unwanted.path.exists():
        return False
    shutil.rmtree(unwanted.path)
    return True


def _declare(into: Environment, name: str, version: str) -> None:
    # importlib.metadata finds a distribution by its dist-info folder; METADATA is all that it needs.
    [site_packages] = (into.path / "lib").glob("python3.*/site-packages")
    folder = site_packages / f"{name}-{version}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (folder / "INSTALLER").write_text("llmbench\n")
    (folder / "RECORD").write_text("")


def _check_call(command: Iterable[str], target: Environment, env: Mapping[str, str] | None = None) -> str:
    command = list(command)
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **(env or {})})
    if done.returncode != 0:
        # Where Debian's python3-venv is missing, it is stdout that says so.
        said = done.stderr.splitlines() + ([] if done.stderr.strip() else done.stdout.splitlines())
        lines = [line for line in said if not line.startswith("WARNING")]
        raise EngineError(
            f"{target.recipe.engine} {target.recipe.version} could not be installed: `{' '.join(command[-4:])}` ended "
            f"with code {done.returncode}.\n" + "\n".join(lines[-20:])
        )
    return done.stdout
