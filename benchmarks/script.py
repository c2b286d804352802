"""What the scripts beside it share: counts as arguments, errors as one sentence, models by any name, medians."""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from safetensors import safe_open

from llmbench.reference_engine.errors import ReferenceEngineError
from llmbench.reference_engine.models.loader import read_model_config, weight_files


def run(main: Callable[[], None]) -> None:
    """Call `main`; what the user can mend is one sentence and exit code 2, as on the engine's own command line."""
    try:
        main()
    except ReferenceEngineError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)


def at_least(least: int) -> Callable[[str], int]:
    """An argument's type: a whole number that is not smaller."""

    def number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"given {value}, at least {least} is needed")
        return value

    return number


def context_len(folder: Path, most: int = 1024) -> int:
    """Tokens that an engine of this checkpoint is asked to hold of a sequence: `most`, or what the model can."""
    return min(most, read_model_config(folder).max_position_embeddings)


def num_linear_weights(folder: Path) -> int | None:
    """Weights that a decode step reads: of every linear layer and the head. None where they are stored packed."""
    config = read_model_config(folder)
    num_weights = 0
    for path in weight_files(folder):
        with safe_open(path, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118, as it is no mapping
                if name.endswith(("weight_packed", "qweight")):
                    return None
                shape = tensors.get_slice(name).get_shape()
                is_left_out = name.endswith("wpe.weight") or (name == "lm_head.weight" and config.tie_word_embeddings)
                num_weights += shape[0] * shape[1] if len(shape) == 2 and not is_left_out else 0
    # Of an embedding a step reads a row for each token, but all of it where it is the head too.
    return num_weights - (0 if config.tie_word_embeddings else config.vocab_size * config.hidden_size)


def port_of(server: subprocess.Popen[str]) -> int:
    """Where the bundled engine's server listens, once it says so on stderr; exits with its last line if it ends."""
    assert server.stderr is not None
    last = "without a word"
    for line in server.stderr:
        if (found := re.search(r"http://127.0.0.1:(\d+)", line)) is not None:
            return int(found[1])
        last = line.strip() or last
    sys.exit(f"The server did not start: {last}")


def spread(values: Sequence[float], middle: str, width: str, between: str = " ±") -> str:
    """The median by the format `middle`, and half the interquartile range by `width`; one value stands alone."""
    if len(values) < 2:
        return f"{values[0]:{middle}}"
    low, median, high = statistics.quantiles(values, n=4)
    return f"{median:{middle}}{between}{(high - low) / 2:{width}}"
