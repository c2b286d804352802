"""An engine's own environment, made by the real pip out of a package that the test builds: no index is asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from llmbench.engines import environments
from llmbench.engines.adapter import EngineError
from llmbench.engines.environments import Environment, environment
from llmbench.engines.recipe import Recipe

HERE = sys.version_info.minor


def write_wheel(folder: Path, name: str, program: str | None = None) -> Path:
    path = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{name}.py", "def main():\n    print('serving')\n")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        if program is not None:
            wheel.writestr(f"{info}/entry_points.txt", f"[console_scripts]\n{program} = {name}:main\n")
        wheel.writestr(f"{info}/RECORD", "")
    return path


def recipe(*wheels: Path, without: tuple[str, ...] = (), program: str = "toyserve", **changes: object) -> Recipe:
    fields = {"pythons": (HERE,), "machines": ("x86_64", "aarch64", "arm64"), "disk_gib": 0.01} | changes
    return Recipe(
        engine="toy",
        version="1.0",
        requirements=("--no-index", *map(str, wheels)),
        program=program,
        without=without,
        **fields,  # type: ignore[arg-type]
    )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    folder = tmp_path_factory.mktemp("wheels")
    wheels = [write_wheel(folder, "toyengine", "toyserve"), write_wheel(folder, "clashing")]
    wanted = environment(
        recipe(*wheels, without=("clashing",), aliases={"toy": "1.0+cpu"}), tmp_path_factory.mktemp("cache")
    )
    said: list[str] = []
    environments.install(wanted, said.append)
    assert "taking out clashing" in said
    return wanted


def test_the_program_runs_in_its_own_environment(installed: Environment) -> None:
    done = subprocess.run([str(installed.program)], capture_output=True, text=True, check=True)
    assert done.stdout == "serving\n"


def test_what_clashes_is_gone_and_the_alias_is_found(installed: Environment) -> None:
    ask = "from importlib.metadata import version; print(version('toy')); import clashing"
    done = subprocess.run(
        [str(installed.path / "bin" / "python"), "-c", ask], capture_output=True, text=True, check=False
    )
    assert done.stdout == "1.0+cpu\n"
    assert "No module named 'clashing'" in done.stderr


def test_the_lock_names_what_was_installed(installed: Environment) -> None:
    assert any(line.startswith("toyengine") for line in installed.lock())
    assert not any(line.startswith("clashing") for line in installed.lock())


def test_a_complete_environment_is_left_as_it_is(installed: Environment) -> None:
    stamp = installed.program.stat().st_mtime_ns
    said: list[str] = []
    environments.install(installed, said.append)
    assert installed.program.stat().st_mtime_ns == stamp
    assert said == [f"toy 1.0 is installed already in {installed.path}"]


def test_a_requirement_that_does_not_exist_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    wanted = environment(recipe(tmp_path / "absent-1.0-py3-none-any.whl"), tmp_path / "cache")
    with pytest.raises(EngineError, match=r"toy 1\.0 could not be installed.*absent-1\.0"):
        environments.install(wanted, lambda line: None)
    assert not wanted.path.exists()


def test_a_recipe_without_its_program_is_refused(tmp_path: Path) -> None:
    wanted = environment(recipe(write_wheel(tmp_path, "toyengine"), program="toyserve"), tmp_path / "cache")
    with pytest.raises(EngineError, match="has no program toyserve"):
        environments.install(wanted, lambda line: None)


def test_remove_takes_all_away_once(tmp_path: Path) -> None:
    wanted = environment(recipe(write_wheel(tmp_path, "toyengine", "toyserve")), tmp_path / "cache")
    environments.install(wanted, lambda line: None)
    assert environments.remove(wanted)
    assert not environments.remove(wanted)
    with pytest.raises(EngineError, match="llmbench engines install toy"):
        wanted.lock()


def test_obstacles_name_machine_python_and_disk(tmp_path: Path) -> None:
    wanted = environment(recipe(machines=("s390x",), pythons=(4,), disk_gib=10**9), tmp_path)
    machine, python, disk = environments.obstacles(wanted)
    assert "has wheels for s390x" in machine
    assert "needs python3.4 on the PATH" in python
    assert "LLMBENCH_CACHE" in disk


def test_an_environment_of_another_recipe_is_made_anew_or_stays_as_it_is(tmp_path: Path) -> None:
    toy = environment(recipe(write_wheel(tmp_path, "toyengine", "toyserve")), tmp_path / "cache")
    environments.install(toy, lambda line: None)
    assert toy.outdated is None

    absent = replace(toy.recipe, requirements=("--no-index", str(tmp_path / "absent-1.0-py3-none-any.whl")))
    with pytest.raises(EngineError, match="could not be installed"):
        environments.install(replace(toy, recipe=absent), lambda line: None)
    assert toy.outdated is None
    assert subprocess.run([str(toy.program)], capture_output=True, text=True, check=True).stdout == "serving\n"

    more = (*toy.recipe.requirements, str(write_wheel(tmp_path, "another")))
    changed = replace(toy, recipe=replace(toy.recipe, requirements=more))
    assert changed.outdated == "by another recipe (requirements)"
    said: list[str] = []
    environments.install(changed, said.append)
    assert said[0] == "toy 1.0 was installed by another recipe (requirements), so it is made anew"
    assert changed.outdated is None
    assert any(line.startswith("another") for line in changed.lock())
    assert [path.name for path in toy.path.parent.iterdir()] == [toy.path.name]


def test_only_what_decides_the_packages_makes_an_environment_old(installed: Environment) -> None:
    assert replace(installed, recipe=replace(installed.recipe, note="Mind the gap.", disk_gib=2.0)).outdated is None
    other = replace(installed.recipe, aliases={}, build_env={"A": "1"})
    assert replace(installed, recipe=other).outdated == "by another recipe (build_env, aliases)"


@pytest.mark.parametrize("memory", [None, "[]", "{", json.dumps({"requirements": []})])
def test_an_environment_that_does_not_remember_its_recipe_is_old(tmp_path: Path, memory: str | None) -> None:
    kept = environment(recipe(), tmp_path)
    kept.program.parent.mkdir(parents=True)
    kept.program.touch()
    assert kept.outdated is None  # what is not complete is not old, but built anew in any case
    (kept.path / environments.LOCK).write_text("toyengine==1.0\n")
    if memory is not None:
        (kept.path / environments.MADE_BY).write_text(memory)
    assert kept.outdated is not None


BACKEND = """
import os, zipfile, toyengine
def build_wheel(folder, *_):
    name = "built-1.0-py3-none-any.whl"
    info = "built-1.0.dist-info/"
    with zipfile.ZipFile(os.path.join(folder, name), "w") as wheel:
        wheel.writestr("built.py", "OPS = " + repr(os.environ["TOY_OPS"]))
        about = "Metadata-Version: 2.1\\nName: built\\nVersion: 1.0\\nRequires-Dist: no-such\\n"
        wheel.writestr(info + "METADATA", about)
        wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(info + "RECORD", "")
    return name
"""


def test_what_is_bare_is_built_by_what_the_requirements_brought(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "backend.py").write_text(BACKEND)
    (source / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    engine = write_wheel(tmp_path, "toyengine", "toyserve")
    wanted = environment(recipe(engine, bare=(str(source),), build_env={"TOY_OPS": "0"}), tmp_path / "cache")
    environments.install(wanted, lambda line: None)
    ask = [str(wanted.path / "bin" / "python"), "-c", "import built; print(built.OPS)"]
    assert subprocess.run(ask, capture_output=True, text=True, check=True).stdout == "0\n"


def test_a_recipes_own_index_is_asked_where_the_usual_ones_do_not_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    empty, other = tmp_path / "empty", tmp_path / "other"
    empty.mkdir()
    (other / "toyengine").mkdir(parents=True)
    wheel = write_wheel(other / "toyengine", "toyengine", "toyserve")
    (other / "toyengine" / "index.html").write_text(f'<a href="{wheel.name}">{wheel.name}</a>')
    asked = ("--index-url", empty.as_uri(), "toyengine")
    wanted = environment(replace(recipe(), requirements=asked, index=other.as_uri()), tmp_path / "cache")
    said: list[str] = []
    environments.install(wanted, said.append)
    assert f"asking {other.as_uri()} too" in said
    assert wanted.program.is_file()


def test_a_reason_that_is_told_on_stdout_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Debian's package python3-venv is not installed, `python -m venv` says so there."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'ensurepip is not available. apt install python3-venv'\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(Recipe, "python", lambda self: str(python))
    with pytest.raises(EngineError, match="apt install python3-venv"):
        environments.install(environment(recipe(), tmp_path / "cache"), lambda line: None)
