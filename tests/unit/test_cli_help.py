"""The command line as a whole: quick to answer, every option says its default, errors are one sentence."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from llmbench import __version__
from llmbench.engines.adapter import EngineError, MissingPackageError
from llmbench.harness.cli import app, main
from llmbench.harness.cli.exit_codes import exit_code_of
from llmbench.harness.errors import ConfigError
from llmbench.results.run_directory import RunError
from llmbench.workloads.errors import WorkloadError

HEAVY = ("torch", "transformers", "tokenizers", "pyarrow", "plotly", "numpy", "pydantic", "asyncio", "jinja2", "psutil")


def walk(command: Any, path: tuple[str, ...] = ("llmbench",)) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from walk(inner, (*path, name))


COMMANDS = list(walk(typer.main.get_command(app)))
EACH_COMMAND = pytest.mark.parametrize(("path", "command"), COMMANDS, ids=["-".join(path) for path, _ in COMMANDS])


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nsys.argv = ['llmbench', '--help']\n"
        "from llmbench.harness.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code == 0, end.code\n"
        f"print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "HEAVY []"


def test_the_issue_s_commands_are_there() -> None:
    names = {" ".join(path[1:]) for path, _ in COMMANDS}
    assert names >= {
        "run",
        "report",
        "serve",
        "workloads list",
        "workloads show",
        "workloads validate",
        "workloads init",
        "workloads schema",
        "engines list",
        "models list",
        "models create",
    }


@EACH_COMMAND
def test_every_option_s_help_ends_in_its_default(path: tuple[str, ...], command: Any) -> None:
    for parameter in command.params:
        if parameter.param_type_name == "option":
            assert re.search(r"\(default: [^()]+\)\.$", parameter.help or ""), f"{path} {parameter.opts}"
        else:
            assert parameter.help, f"{path} {parameter.name}"


@EACH_COMMAND
def test_every_command_explains_itself(path: tuple[str, ...], command: Any) -> None:
    result = CliRunner().invoke(app, [*path[1:], "--help"])
    assert result.exit_code == 0
    assert command.help, path


def test_version() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"llmbench {__version__}\n")


def test_python_m_llmbench_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "llmbench", "--version"], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout == f"llmbench {__version__}\n"


def test_an_unknown_option_exits_2() -> None:
    assert CliRunner().invoke(app, ["run", "quickstart", "--rate", "8"]).exit_code == 2


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (WorkloadError("w"), 2),
        (ConfigError("c"), 2),
        (RunError("r"), 2),
        (EngineError("e"), 2),
        (MissingPackageError("m"), 3),
        (ValueError("a bug"), None),
    ],
)
def test_exit_codes(error: Exception, code: int | None) -> None:
    assert exit_code_of(error) == code


def test_an_error_is_one_sentence_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["llmbench", "workloads", "validate", "no_such_workload.yaml"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("llmbench: no_such_workload.yaml")
    assert "Traceback" not in error
