"""Tokens per second of the engine on one GPU, batch by batch, with CUDA graphs and without.

    python benchmarks/gpu_decode.py [--model synthetic:tinyllama-1.1b] [--formats int8] [--batches 1 16 256]

Through the public interface: scheduler, sampler and all. Both engines are timed in turn in one process; a round is
`--steps` decode steps of every sequence. Medians over rounds, ± half the interquartile range. The share of the memory
bandwidth counts each weight once a step and each sequence's keys and values, against a copy of 1 GiB measured first.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from pathlib import Path

import script
import torch

from llmbench.reference_engine.cache.kv_cache import kv_bytes_per_token
from llmbench.reference_engine.config import EngineConfig
from llmbench.reference_engine.engine import Engine
from llmbench.reference_engine.models.loader import read_model_config
from llmbench.reference_engine.models.sources import checkpoint_folder
from llmbench.reference_engine.sampling import SamplingParams

PROMPT_LEN = 128
# Decoded before the last of a batch has its first token, and not timed.
SPARE_TOKENS = 20
# Scales of two bytes for 64 weights included.
BYTES_PER_WEIGHT = {"bfloat16": 2.0, "int8": 1 + 2 / 64, "int4": 0.5 + 2 / 64, "fp8": 1 + 2 / 64}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="synthetic:tinyllama-1.1b")
    parser.add_argument("--formats", nargs="+", choices=list(BYTES_PER_WEIGHT), default=list(BYTES_PER_WEIGHT))
    parser.add_argument("--batches", type=script.at_least(1), nargs="+", default=[1, 4, 16, 64, 256])
    parser.add_argument("--steps", type=script.at_least(1), default=64)
    parser.add_argument("--rounds", type=script.at_least(1), default=5)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit(f"This benchmark needs a CUDA or HIP device; torch {torch.__version__} finds none.")
    model = checkpoint_folder(arguments.model)
    config, max_model_len = read_model_config(model), script.context_len(model)
    if PROMPT_LEN + arguments.steps + SPARE_TOKENS > max_model_len:
        most = max_model_len - PROMPT_LEN - SPARE_TOKENS
        parser.error(f"--steps: {arguments.model} holds {max_model_len} tokens, so {most} at most")
    bytes_per_s = copied_bytes_per_s()
    print(f"{torch.cuda.get_device_name()}, {bytes_per_s / 1e9:.0f} GB/s copied; {arguments.model}; tokens/s")
    num_weights = script.num_linear_weights(model)
    for name in arguments.formats:
        engines = {graphs: make_engine(model, name, graphs, max(arguments.batches)) for graphs in ("off", "cuda")}
        for batch in arguments.batches:
            rates: dict[str, list[float]] = {graphs: [] for graphs in engines}
            for round_index in range(arguments.rounds + 1):
                for graphs, engine in engines.items():
                    rate = batch * arguments.steps / decode_seconds(engine, batch, arguments.steps)
                    if round_index:
                        rates[graphs].append(rate)
            best = statistics.median(rates["cuda"])
            kv_bytes = batch * (PROMPT_LEN + arguments.steps / 2) * kv_bytes_per_token(config, torch.bfloat16)
            share = ""
            if num_weights is not None:
                num_bytes = num_weights * BYTES_PER_WEIGHT[name] + kv_bytes
                share = f"{best / batch * num_bytes / bytes_per_s:6.1%} of the bandwidth"
            print(
                f"{name:16} batch {batch:4}   without graphs {spread(rates['off'])}   with {spread(rates['cuda'])}   "
                f"{best / statistics.median(rates['off']):5.2f}x   {share}",
                flush=True,
            )
        del engines, engine
        torch.cuda.empty_cache()


def make_engine(model: Path, weights: str, graphs: str, batch: int) -> Engine:
    return Engine(
        EngineConfig(
            model_path=model,
            dtype="bfloat16",
            device="cuda",
            quantization=None if weights == "bfloat16" else weights,  # type: ignore[arg-type]
            graphs=graphs,  # type: ignore[arg-type]
            max_num_seqs=batch,
            max_num_batched_tokens=max(2048, batch),
            max_model_len=script.context_len(model),
            kv_cache_gib=8.0,
            prefix_cache=False,
        )
    )


def decode_seconds(engine: Engine, batch: int, num_steps: int) -> float:
    """Of num_steps decode steps of every sequence, after all of them have their first token."""
    rng = random.Random(batch)
    params = SamplingParams(max_tokens=num_steps + SPARE_TOKENS, temperature=0, ignore_eos=True)
    for index in range(batch):
        engine.add_request(str(index), [rng.randrange(10, 1000) for _ in range(PROMPT_LEN)], params)
    while len(engine.step()) < batch:
        pass
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(num_steps):
        engine.step()
    torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    for index in range(batch):
        engine.abort(str(index))
    return seconds


def copied_bytes_per_s() -> float:
    from triton.testing import do_bench

    source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * 2**30 / (do_bench(lambda: target.copy_(source)) / 1e3)


def spread(rates: list[float]) -> str:
    return script.spread(rates, "8.0f", "5.0f")


if __name__ == "__main__":
    script.run(main)
