"""Multiplications per second of the linear kernel on one core, by weight format, rows and instruction set.

    python benchmarks/linear_kernel.py [--in-features 768] [--out-features 3072] [--rows 1 4 16 128 512]

One thread, and its processor time instead of the clock's: what else runs on the machine is left out, but for its share
of caches and memory. The best of many calls. The weights of the default shape stay in the second-level cache or the
third: this is the speed of the arithmetic. With --out-features 65536 they come from memory, as in a decode step.
"""

from __future__ import annotations

import argparse
import time

import torch

from llmbench.reference_engine.config import QuantizationName
from llmbench.reference_engine.kernels import dispatch
from llmbench.reference_engine.kernels.contract import LinearParts

FORMATS: dict[str, tuple[torch.dtype, QuantizationName | None]] = {
    "float32": (torch.float32, None),
    "bfloat16": (torch.bfloat16, None),
    "int8": (torch.float32, "int8"),
    "int4": (torch.float32, "int4"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--in-features", type=int, default=768)
    parser.add_argument("--out-features", type=int, default=3072)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4, 16, 128, 512])
    parser.add_argument("--instruction-sets", nargs="*")
    arguments = parser.parse_args()
    kernels = dispatch.load("cpp", 1)
    shape = (arguments.out_features, arguments.in_features)
    print(f"one core, {shape[1]} inputs, {shape[0]} outputs; 10^9 multiplications per second")
    print(f"{'instructions':12} {'format':9}" + "".join(f"{rows:>7} rows" for rows in arguments.rows))
    for instructions in arguments.instruction_sets or torch.ops.llmbench.instruction_sets().split(","):
        torch.ops.llmbench.set_instruction_set(instructions)
        for name, (dtype, quantization) in FORMATS.items():
            linear = kernels.linear(LinearParts((torch.randn(shape) * 0.02).to(dtype), quantization=quantization))
            speeds = []
            for rows in arguments.rows:
                x = torch.randn(rows, shape[1])
                best = min(seconds_of_call(linear, x) for _ in range(10 if rows > 100 else 50))
                speeds.append(rows * shape[0] * shape[1] / best / 1e9)
            print(f"{instructions:12} {name:9}" + "".join(f"{speed:12.1f}" for speed in speeds), flush=True)


@torch.inference_mode()
def seconds_of_call(linear: object, x: torch.Tensor) -> float:
    assert callable(linear)
    start = time.thread_time()
    linear(x)
    return time.thread_time() - start


if __name__ == "__main__":
    main()
