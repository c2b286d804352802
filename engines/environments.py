"""Virtual environments of engines, one per engine and version, so that clashing pins never meet."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from llmbench.engines.adapter import EngineError
from llmbench.engines.recipe import Recipe

Say = Callable[[str], None]

# The last thing written: an environment without it was interrupted, and is built anew.
LOCK = "llmbench-lock.txt"


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
    """Build the environment, or leave a complete one as it is. `say` gets a line per step.

    Raises EngineError with pip's last words if a step fails; what was built is then taken away again.
    """
    recipe = wanted.recipe
    if wanted.is_complete:
        say(f"{recipe.engine} {recipe.version} is installed already in {wanted.path}")
        return
    if found := obstacles(wanted):
        raise EngineError(" ".join(found))
    python = recipe.python()
    assert python is not None
    remove(wanted)
    wanted.path.parent.mkdir(parents=True, exist_ok=True)
    try:
        say(f"making {wanted.path}")
        _check_call([python, "-m", "venv", str(wanted.path)], wanted)
        pip = [str(wanted.path / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
        if recipe.bare:
            say(f"installing {' '.join(recipe.bare)} without what they ask for")
            _check_call([*pip, "install", "--quiet", "--no-deps", *recipe.bare], wanted)
        say(f"installing {' '.join(recipe.requirements)}")
        _check_call([*pip, "install", "--quiet", *recipe.requirements], wanted)
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
        (wanted.path / LOCK).write_text(lock)
    except BaseException:
        remove(wanted)
        raise


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


def _check_call(command: Iterable[str], target: Environment) -> str:
    command = list(command)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if not line.startswith("WARNING")]
        raise EngineError(
            f"{target.recipe.engine} {target.recipe.version} could not be installed: `{' '.join(command[-4:])}` ended "
            f"with code {done.returncode}.\n" + "\n".join(lines[-20:])
        )
    return done.stdout
