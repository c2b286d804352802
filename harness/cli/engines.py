"""`llmbench engines`: which engines can be asked, and environments of their own for those that clash."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from llmbench.engines.environments import Environment
    from llmbench.engines.registry import EngineInfo

app = typer.Typer(help="Engines that can be measured.", no_args_is_help=True)

EngineName = Annotated[str, typer.Argument(help="An engine's name, as `llmbench engines doctor` prints it.")]
EngineNames = Annotated[
    list[str], typer.Argument(metavar="ENGINE...", help="Engines' names, as `llmbench engines doctor` prints them.")
]
DoctoredNames = Annotated[
    list[str] | None, typer.Argument(metavar="[ENGINE]...", help="Engines' names; default all of them.")
]


@app.command("list")
def list_engines() -> None:
    """One line per engine: whether llmbench starts it itself, and whether it is installed."""
    from rich.console import Console
    from rich.table import Table

    from llmbench.engines import registry

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("engine", "started by llmbench", "installed", "what it is"):
        table.add_column(heading, overflow="fold")
    for engine in registry.describe():
        installed = "nothing to install" if engine.launchable is False else "yes"
        if not engine.installed:
            installed = f"no: {engine.install_hint}"
        elif engine.outdated is not None:
            installed = f"yes, {engine.outdated}: {engine.install_hint}"
        started = {True: "yes", False: "no, by url", None: "its package says"}[engine.launchable]
        if engine.lacks:
            started = "not on this machine"
        table.add_row(engine.name, started, installed, engine.summary)
    Console(markup=False, highlight=False).print(table)


@app.command("install")
def install(engine: EngineNames) -> None:
    """Give each engine a virtual environment of its own in the cache, ~/.cache/llmbench or $LLMBENCH_CACHE."""
    from llmbench.engines import environments

    # All names are looked at before the first is installed, which takes minutes.
    for wanted in [_environment(name) for name in engine]:
        if wanted.recipe.note:
            typer.echo(wanted.recipe.note)
        environments.install(wanted, typer.echo)
        typer.echo(
            f"{wanted.recipe.engine} {wanted.recipe.version} is ready: {len(wanted.lock())} packages in {wanted.path}"
        )


@app.command("doctor")
def doctor(engine: DoctoredNames = None) -> None:
    """For each engine what is missing on this machine, and the command that mends it; exit code 3 if anything is."""
    from llmbench.engines import registry
    from llmbench.harness.errors import ExitCode

    asked = _checked(engine or registry.names())
    num_missing = 0
    for info in registry.describe():
        if info.name in asked:
            missing = _missing(info)
            num_missing += len(missing)
            by_url = info.launchable is False
            well = "nothing to install; give the url where it runs" if by_url else "ready"
            for line in missing or [well]:
                typer.echo(f"{info.name}: {line}")
    if num_missing:
        raise typer.Exit(int(ExitCode.MISSING_PACKAGE))


@app.command("remove")
def remove(engine: EngineName) -> None:
    """Take an engine's environment away again."""
    from llmbench.engines import environments

    unwanted = _environment(engine)
    gone = environments.remove(unwanted)
    typer.echo(f"{unwanted.path}: removed" if gone else f"{unwanted.path}: there was nothing to remove")


def _missing(info: EngineInfo) -> list[str]:
    """What stands between this machine and starting the engine, or asking it: a sentence each; empty for nothing."""
    from llmbench.engines import environments, registry

    if info.installed:
        found = [] if info.outdated is None else [f"installed {info.outdated}; {info.install_hint} makes it anew"]
    else:
        recipe = registry.recipes().get(info.name)
        found = [] if recipe is None else environments.obstacles(environments.environment(recipe))
        found = found or [f"not installed; {info.install_hint}"]
    return [*found, *info.lacks]


def _checked(names: Sequence[str]) -> Sequence[str]:
    """`names`. Raises ConfigError for one that is no engine's."""
    from llmbench.engines import registry
    from llmbench.harness.errors import ConfigError

    known = registry.names()
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else "."
            raise ConfigError(f"There is no engine {name!r}. llmbench knows {', '.join(known)}{hint}")
    return names


def _environment(engine: str) -> Environment:
    from llmbench.engines import registry
    from llmbench.engines.environments import environment
    from llmbench.harness.errors import ConfigError

    recipes = registry.recipes()
    if engine in recipes:
        return environment(recipes[engine])
    if engine in registry.names():
        raise ConfigError(f"{engine} needs no environment of its own; those that do: {', '.join(recipes)}.")
    near = difflib.get_close_matches(engine, recipes, n=1)
    hint = f"; did you mean {near[0]}?" if near else "."
    raise ConfigError(f"There is no engine {engine!r} to install. llmbench can install {', '.join(recipes)}{hint}")
