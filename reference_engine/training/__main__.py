"""`python -m llmbench.reference_engine.training --out FOLDER` makes the bundled pair again, bit for bit."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Annotated

import typer

# Sums in one order on every x86-64 processor with AVX2, whoever made it: MKL's mode for that (a quarter of its speed),
# and of torch's own loops the ones that all of them can run. Both are read when the first of them computes.
SAME_ON_EVERY_PROCESSOR = {"MKL_CBWR": "COMPATIBLE", "ATEN_CPU_CAPABILITY": "avx2"}


def main(
    out: Annotated[Path, typer.Option(help="Folder to write both checkpoints and the model card to.")],
    int4: Annotated[bool, typer.Option("--int4", help="Also the target trained to be run in int4.")] = False,
    threads: Annotated[int, typer.Option(help="Threads that compute; part of what is reproduced.")] = 1,
) -> None:
    """Train tokenizer, target and draft on this Python's standard library."""
    os.environ |= SAME_ON_EVERY_PROCESSOR
    import torch

    from llmbench.reference_engine.training.card import write_card
    from llmbench.reference_engine.training.train import DRAFT, TARGET, TARGET_INT4, train_pair

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(threads)
    write_card(
        out / "MODEL_CARD.md", train_pair(out, (TARGET, DRAFT, TARGET_INT4) if int4 else (TARGET, DRAFT)), threads
    )


typer.run(main)
