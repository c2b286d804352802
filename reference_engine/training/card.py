"""The model card of the bundled pair: what it is, what it learned from, what it is not for."""

from __future__ import annotations

import math
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from llmbench.reference_engine.training.train import Learned, Recipe

_TEXT = """# Model card: the bundled pair

Two small Llama models with one tokenizer, so that text, acceptance rates, perplexity and equality of outputs mean
something where random weights would not do. `python-draft` proposes tokens for `python-target` in speculative decoding.

| model | parameters | layers × hidden | trained on | held-out loss, nats per token | perplexity |
|---|---|---|---|---|---|
{rows}

- **Data**: the source of the standard library of CPython {python}, without its tests, under the PSF licence
  (https://docs.python.org/3/license.html). One file in twenty, chosen by a hash of its name, is held out.
- **Tokenizer**: byte-level BPE of {vocab_size} tokens, trained on the same text.
- **Training**: Muon and AdamW, batches of {batch_size} windows of {context} tokens, float32, seed {seed},
  torch {torch}, {threads} thread(s).
  {cycles}.
- **Made again by**: `python -m llmbench.reference_engine.training --out FOLDER`, bit for bit: with the same versions of
  Python and torch, sums are added in one order on every x86-64 processor with AVX2, at a quarter of the speed.
- **Held-out loss** is the mean over 64 random windows of held-out text.
- **Not for use**: these models write what looks like Python. They know nothing, and must not be asked for code.
- **Licence**: Apache-2.0, as the rest of this package.
"""


def _steps(recipe: Recipe) -> str:
    return ", then ".join(
        f"{cycle.num_steps} steps {'on what the target says' if cycle.taught else 'on text'} (rate {cycle.peak:g})"
        for cycle in recipe.cycles
    )


def write_card(path: Path, learned: Sequence[Learned], num_threads: int) -> None:
    from llmbench.reference_engine.training.train import BATCH_SIZE, CONTEXT, SEED, VOCAB_SIZE

    rows = [
        f"| `{told.recipe.name}` | {told.num_parameters / 1e6:.2f} M | {told.recipe.shape.num_layers} × "
        f"{told.recipe.shape.hidden_size} | {told.num_tokens / 1e6:.2f} M tokens | {told.held_out_loss:.3f} | "
        f"{math.exp(told.held_out_loss):.1f} |"
        for told in learned
    ]
    path.write_text(
        _TEXT.format(
            rows="\n".join(rows),
            python=platform.python_version(),
            vocab_size=VOCAB_SIZE,
            batch_size=BATCH_SIZE,
            context=CONTEXT,
            seed=SEED,
            cycles=".\n  ".join(f"`{told.recipe.name}`: {_steps(told.recipe)}" for told in learned),
            torch=torch.__version__,
            threads=num_threads,
        )
    )
