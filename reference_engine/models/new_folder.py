"""A folder that is written whole or not at all."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from llmbench.reference_engine.errors import ConfigError


def check_new_folder(folder: Path) -> None:
    """Raises ConfigError unless `folder` can be written: not there yet, or empty. Makes the folders around it."""
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(f"{folder} exists and is not an empty folder; give another one.")
        folder.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryDirectory(dir=folder.parent).cleanup()
    except OSError as error:
        raise _unwritable(folder, error) from None


@contextlib.contextmanager
def new_folder(folder: Path, *, any_writer: bool = False) -> Iterator[Path]:
    """Where to write what is to be in `folder`: beside it, moved there at the end.

    An interrupted one is so never taken for a finished one. any_writer: what another process wrote there meanwhile is
    as good. Raises ConfigError if writing fails.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as partial:
            made = Path(partial) / "checkpoint"
            made.mkdir()
            yield made
            try:
                made.replace(folder)  # which may be there, if it is empty
            except OSError:
                if not (any_writer and (folder / "config.json").is_file()):
                    raise
    except (OSError, SafetensorError) as error:
        raise _unwritable(folder, error) from None


def _unwritable(folder: Path, error: OSError | SafetensorError) -> ConfigError:
    reason = str(error)
    if isinstance(error, OSError) and error.strerror:
        reason = error.strerror
        if error.filename and Path(error.filename) in folder.parents:
            reason += f" ({error.filename})"
    return ConfigError(f"{folder} cannot be written: {reason}.")
