"""What each format costs in quality and saves in bytes and time: perplexity of held-out text, beside bfloat16.

    python benchmarks/perplexity.py [CHECKPOINT] [--text FILE] [--window 256] [--tokens 20000] [--rounds 5]

Without arguments: the bundled target on the held-out files of the standard library, the calibrated int4 (GPTQ) made on
the way from files that it was trained on. --aware names a checkpoint that was trained to be run in int4. Every token of
a window but the first is predicted from the ones before it. The change is of the perplexity; behind ± is the standard
error of that change over windows, each of them paired with itself in bfloat16. Bytes are of the linear layers' weights,
or of one token's keys and values. Tokens/s are of decoding at batch 1 and 8, medians over rounds in which every format
has its turn; behind ± half the interquartile range.
"""

from __future__ import annotations

import argparse
import itertools
import math
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import script
import torch
from tokenizers import Tokenizer

from llmbench.reference_engine.cache.kv_cache import KVCache, kv_bytes_per_token
from llmbench.reference_engine.config import EngineConfig, KVCacheDTypeName, QuantizationName
from llmbench.reference_engine.engine import DTYPES, Engine
from llmbench.reference_engine.kernels import dispatch
from llmbench.reference_engine.model_runner import ModelRunner
from llmbench.reference_engine.models.loader import load_model
from llmbench.reference_engine.models.sources import checkpoint_folder
from llmbench.reference_engine.quantization.calibration import calibration_windows, quantise_checkpoint, window_batch
from llmbench.reference_engine.quantization.kv_formats import storage_dtype
from llmbench.reference_engine.sampling import SamplingParams
from llmbench.reference_engine.training import corpus

BLOCK_SIZE = 16
CALIBRATION_WINDOWS = 32
DECODED = 64
# Per weight, with its share of the group's scale.
BYTES = {
    None: 2.0,
    **dict.fromkeys(("int8", "int8-weight-only", "fp8"), 1 + 2 / 64),
    **dict.fromkeys(("int4", "int4-weight-only"), 0.5 + 2 / 64),
}


class Format(NamedTuple):
    folder: Path
    dtype: str = "bfloat16"
    quantization: QuantizationName | None = None
    kv: KVCacheDTypeName = "auto"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=checkpoint_folder, nargs="?", default="bundled:python-target")
    parser.add_argument("--text", type=Path, help="a file that the model was not trained on")
    parser.add_argument("--aware", type=Path, help="a checkpoint trained for int4")
    parser.add_argument("--window", type=script.at_least(16), default=256)
    parser.add_argument("--tokens", type=script.at_least(1), default=20_000)
    parser.add_argument("--rounds", type=script.at_least(1), default=5)
    parser.add_argument("--kernels", default="auto")
    arguments = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(arguments.checkpoint / "tokenizer.json"))
    texts = [arguments.text.read_text(encoding="utf-8")] if arguments.text else corpus.texts()[1]
    windows = cut(tokenizer, texts, arguments.window)[: arguments.tokens // arguments.window]
    if len(windows) < 2:
        parser.error(f"there are {len(windows)} windows of {arguments.window} tokens; at least two are needed")
    with tempfile.TemporaryDirectory() as scratch:
        calibration = calibration_windows(arguments.checkpoint, None, CALIBRATION_WINDOWS, arguments.window)
        quantise_checkpoint(arguments.checkpoint, Path(scratch), calibration)
        formats = formats_of(arguments.checkpoint, Path(scratch), arguments.aware)
        losses = {name: mean_losses(form, windows, arguments.kernels) for name, form in formats.items()}
        rates = decode_rates(formats, windows, arguments.rounds, arguments.kernels)
    print(f"{len(windows)} windows of {arguments.window} tokens, {arguments.rounds} rounds of decoding")
    print(f"{'format':24} {'perplexity':>10} {'change':>16} {'bytes':>15} {'batch 1':>12} {'batch 8':>12}")
    for name, form in formats.items():
        difference = losses[name] - losses["bfloat16"]
        change = f"{math.expm1(difference.mean()):+.2%} ±{float(difference.std()) / math.sqrt(len(windows)):.2%}"
        print(
            f"{name:24} {math.exp(losses[name].mean()):10.3f} {change:>16} {size_of(form):>15} "
            f"{spread(rates[name, 1]):>12} {spread(rates[name, 8]):>12}"
        )


def formats_of(checkpoint: Path, calibrated: Path, aware: Path | None) -> dict[str, Format]:
    formats = {
        "bfloat16": Format(checkpoint),
        "float32": Format(checkpoint, "float32"),
        "int8 (W8A8)": Format(checkpoint, quantization="int8"),
        "int8, weights alone": Format(checkpoint, quantization="int8-weight-only"),
        "fp8, weights alone": Format(checkpoint, quantization="fp8"),
        "int4 (W4A8), nearest": Format(checkpoint, quantization="int4"),
        "int4 (W4A8), GPTQ": Format(calibrated, quantization="int4"),
        "int4, weights alone": Format(checkpoint, quantization="int4-weight-only"),
        "int4 alone, GPTQ": Format(calibrated, quantization="int4-weight-only"),
        "int8 keys and values": Format(checkpoint, kv="int8"),
        "fp8 keys and values": Format(checkpoint, kv="fp8"),
    }
    if aware is not None:
        formats["int4 (W4A8), aware"] = Format(aware, quantization="int4")
    return formats


def cut(tokenizer: Tokenizer, texts: Sequence[str], length: int) -> list[list[int]]:
    """Windows of so many tokens that lie within one text."""
    windows: list[list[int]] = []
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        windows += [ids[start : start + length] for start in range(0, len(ids) - length + 1, length)]
    return windows


def mean_losses(form: Format, windows: Sequence[Sequence[int]], kernels: str) -> torch.Tensor:
    """Mean negative log-likelihood per token of each window, float64."""
    dtype = DTYPES[form.dtype]
    model = load_model(form.folder, dtype)
    length = len(windows[0])
    cache = KVCache(model.config, -(-length // BLOCK_SIZE), BLOCK_SIZE, storage_dtype(form.kv, dtype))
    runner = ModelRunner(model, cache, dispatch.load(kernels), length, form.quantization)
    losses: list[torch.Tensor] = []
    with torch.inference_mode():
        for window in windows:
            logits = model.logits(model(window_batch(window, runner))[:-1].contiguous())
            losses.append(torch.nn.functional.cross_entropy(logits.double(), torch.tensor(window[1:])))
    return torch.stack(losses)


def decode_rates(
    formats: dict[str, Format], windows: Sequence[Sequence[int]], rounds: int, kernels: str
) -> dict[tuple[str, int], list[float]]:
    """Tokens/s of each format and batch size, one per round."""
    engines = {
        name: Engine(
            EngineConfig(
                model_path=form.folder,
                dtype=form.dtype,  # type: ignore[arg-type]
                quantization=form.quantization,
                kv_cache_dtype=form.kv,
                kernels=kernels,
                max_num_seqs=8,
                prefix_cache=False,
            )
        )
        for name, form in formats.items()
    }
    rates: dict[tuple[str, int], list[float]] = {}
    for turn, (batch, (name, engine)) in itertools.product(
        range(rounds + 1), itertools.product((1, 8), engines.items())
    ):
        params = SamplingParams(max_tokens=DECODED + 1, temperature=0, ignore_eos=True)
        for index in range(batch):
            engine.add_request(str(index), windows[index % len(windows)][:64], params)
        while len(engine.step()) < batch:
            pass
        begun = time.perf_counter()
        num_tokens = 0
        while engine.has_work():
            num_tokens += sum(len(output.new_token_ids) for output in engine.step())
        if turn > 0:
            rates.setdefault((name, batch), []).append(num_tokens / (time.perf_counter() - begun))
    return rates


def size_of(form: Format) -> str:
    if form.kv != "auto":
        model = load_model(form.folder, torch.bfloat16)
        return f"{kv_bytes_per_token(model.config, storage_dtype(form.kv, torch.bfloat16))} per token"
    return f"{4.0 if form.dtype == 'float32' else BYTES[form.quantization]:.2f} per weight"


def spread(values: Sequence[float]) -> str:
    return script.spread(values, ".0f", ".0f")


if __name__ == "__main__":
    script.run(main)
