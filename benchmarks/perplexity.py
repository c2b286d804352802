"""What each weight format costs in quality and saves in bytes: perplexity of held-out text, beside bfloat16.

    python benchmarks/perplexity.py CHECKPOINT TEXT [--window 256] [--tokens 20000]

TEXT is a file that the model was not trained on. It is cut into windows; every token of a window but the first is
predicted from the ones before it. The change is of the perplexity; behind ± is the standard error of that change over
windows, each of them paired with itself in bfloat16.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from tokenizers import Tokenizer

from llmbench.reference_engine.cache.kv_cache import KVCache
from llmbench.reference_engine.config import QuantizationName
from llmbench.reference_engine.kernels import dispatch
from llmbench.reference_engine.model_runner import ModelRunner
from llmbench.reference_engine.models.loader import load_model
from llmbench.reference_engine.step_batch import StepBatch

BLOCK_SIZE = 16
FORMATS: dict[str, tuple[torch.dtype, QuantizationName | None, float]] = {
    "bfloat16": (torch.bfloat16, None, 2.0),
    "float32": (torch.float32, None, 4.0),
    "int8": (torch.bfloat16, "int8", 1 + 2 / 64),
    "int4": (torch.bfloat16, "int4", 0.5 + 2 / 64),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=20_000)
    parser.add_argument("--kernels", default="auto")
    arguments = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(arguments.checkpoint / "tokenizer.json"))
    ids = tokenizer.encode(arguments.text.read_text(encoding="utf-8"), add_special_tokens=False).ids[: arguments.tokens]
    windows = [
        ids[start : start + arguments.window] for start in range(0, len(ids) - arguments.window + 1, arguments.window)
    ]
    if len(windows) < 2:
        parser.error(f"{arguments.text} has {len(ids)} tokens; at least two windows of {arguments.window} are needed.")
    print(f"{len(windows)} windows of {arguments.window} tokens")
    print(f"{'format':10} {'perplexity':>11} {'change':>18} {'bytes/weight':>13}")
    baseline: torch.Tensor | None = None
    for name, (dtype, quantization, num_bytes) in FORMATS.items():
        losses = mean_losses(arguments.checkpoint, dtype, quantization, windows, arguments.kernels)
        baseline = losses if baseline is None else baseline
        difference = losses - baseline
        perplexity = math.exp(losses.mean())
        change = math.expm1(difference.mean())
        error = float(difference.std()) / math.sqrt(len(windows))
        print(f"{name:10} {perplexity:11.4f} {change:+10.3%} ±{error:6.3%} {num_bytes:13.3f}")


def mean_losses(
    checkpoint: Path, dtype: torch.dtype, quantization: QuantizationName | None, windows: list[list[int]], kernels: str
) -> torch.Tensor:
    """Mean negative log-likelihood per token of each window, float64."""
    model = load_model(checkpoint, dtype)
    length = len(windows[0])
    num_blocks = -(-length // BLOCK_SIZE)
    cache = KVCache(model.config, num_blocks, BLOCK_SIZE, dtype)
    runner = ModelRunner(model, cache, dispatch.load(kernels), length, quantization)
    positions = torch.arange(length)
    losses: list[torch.Tensor] = []
    for window in windows:
        token_ids = torch.tensor(window)
        batch = StepBatch(
            token_ids=token_ids,
            positions=positions,
            spans=torch.tensor([[0, length, length]]),
            block_tables=torch.arange(num_blocks).unsqueeze(0),
            num_decodes=0,
            kv_cache=cache,
            rotary=runner.rotary,
        )
        with torch.inference_mode():
            logits = model.logits(model(batch)[:-1].contiguous())
            losses.append(torch.nn.functional.cross_entropy(logits.double(), token_ids[1:]))
    return torch.stack(losses)


if __name__ == "__main__":
    main()
