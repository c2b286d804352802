"""Every `llmbench …` in the README and the docs is a command with those options."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from llmbench.harness.cli import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMAND = typer.main.get_command(app)
# Click's, which newer versions of typer bring under a name of their own.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]


def commands(page: Path) -> list[str]:
    """Of its code blocks, with continued lines as one and without comments; shell variables are words like others."""
    blocks = re.findall(r"^```(?:sh|yaml|text)?\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    found = [re.search(r"(?:^|[;&|] |do |- |\$ )(llmbench [^;|&>]*)", line) for line in lines]
    return [match[1] for match in found if match is not None]


def parsed(command: Any, words: list[str]) -> None:
    """Raises UsageError for a command or an option that is not there."""
    context = command.make_context(words[0], words[1:])
    while hasattr(command, "commands"):
        rest = [*context._protected_args, *context.args] if hasattr(context, "_protected_args") else context.args
        if not rest:
            return
        name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_a_page_is_one_that_there_is(page: Path) -> None:
    for text in commands(page):
        try:
            parsed(COMMAND, shlex.split(text, comments=True))
        except UsageError as error:
            pytest.fail(f"{text}: {error}")


def test_the_search_finds_commands() -> None:
    assert len(commands(ROOT / "README.md")) >= 10
    assert len(commands(ROOT / "docs/ci.md")) >= 12


@pytest.mark.parametrize("text", ["llmbench runs w.yaml", "llmbench run w.yaml --rounds 4", "llmbench history trends"])
def test_a_command_that_there_is_not_is_noticed(text: str) -> None:
    with pytest.raises(UsageError):
        parsed(COMMAND, shlex.split(text))
