"""An engine's own environment, made by the real pip out of a package that the test builds: no index is asked."""

from __future__ import annotations

import subprocess
import sys
import zipfile
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
