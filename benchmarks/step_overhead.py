"""How much of a decode step is not arithmetic: scheduling, preparing tensors, sampling, Python between the operators.

    python benchmarks/step_overhead.py [--model synthetic:llama-150m] [--quantization int4] [--batch 8]

The three operators (linear, attention, argmax) are timed one by one, their own dispatch included; the rest of the step
is the overhead. The timing itself costs some 0.1 µs per operator and counts as overhead. Medians over steps; behind ±
half the interquartile range.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch

from llmbench.reference_engine.config import EngineConfig
from llmbench.reference_engine.engine import Engine
from llmbench.reference_engine.kernels.build import load_library
from llmbench.reference_engine.models.synthetic import create
from llmbench.reference_engine.sampling import SamplingParams

OPERATORS = ("linear", "attention", "argmax")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="synthetic:llama-150m")
    parser.add_argument("--quantization", choices=["int8", "int4"], default="int4")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--threads", type=int, default=None)
    arguments = parser.parse_args()
    spent: Counter[str] = Counter()
    watch_operators(spent)
    engine = Engine(
        EngineConfig(
            model_path=create(arguments.model),
            dtype="bfloat16",
            quantization=arguments.quantization,
            kernels="cpp",
            num_threads=arguments.threads,
            max_model_len=1024,
        )
    )
    rng = random.Random(0)
    params = SamplingParams(max_tokens=arguments.steps + 20, temperature=0, ignore_eos=True)
    for index in range(arguments.batch):
        engine.add_request(str(index), [rng.randrange(10, 1000) for _ in range(32)], params)
    while len(engine.step()) < arguments.batch:  # until all have their first token
        pass
    for _ in range(10):
        engine.step()
    steps: list[dict[str, float]] = []
    for _ in range(arguments.steps):
        spent.clear()
        start = time.perf_counter()
        engine.step()
        total = time.perf_counter() - start
        steps.append({**spent, "rest": total - spent.total(), "step": total})
    print(f"{arguments.model} {arguments.quantization}, batch {arguments.batch}: {arguments.steps} decode steps")
    for name in (*OPERATORS, "rest", "step"):
        low, middle, high = statistics.quantiles([step.get(name, 0.0) for step in steps], n=4)
        share = statistics.median(step.get(name, 0.0) / step["step"] for step in steps)
        print(f"{name:10} {middle * 1e6:9.0f} µs ±{(high - low) / 2 * 1e6:6.0f}  {share:6.1%}")


def watch_operators(spent: Counter[str]) -> None:
    """Every call of an operator adds its seconds to `spent`; before the engine is made, which looks them up."""
    load_library()
    for name in OPERATORS:
        packet = getattr(torch.ops.llmbench, name)
        packet.default = timed(packet.default, name, spent)


def timed(operator: Callable[..., Any], name: str, spent: Counter[str]) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        start = time.perf_counter()
        result = operator(*args)
        spent[name] += time.perf_counter() - start  # type: ignore[assignment]
        return result

    return call


if __name__ == "__main__":
    main()
