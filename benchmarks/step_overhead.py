"""How much of a decode step is not the model's arithmetic: scheduling, preparing tensors, sampling, Python in between.

    python benchmarks/step_overhead.py [--model synthetic:llama-150m] [--quantization int4] [--batch 8]

The steps are profiled in the process (llmbench profile --in-process): embedding, attention, MLP and head are the
model's, all the rest is overhead, the search for the most probable token and the text of the tokens included. The
profile's own stamps cost some µs a step and count as overhead too. With --graphs off and cpu in turns, what a replay
saves is seen: the Python between the operators is then within the parts.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from llmbench.reference_engine.config import EngineConfig
from llmbench.reference_engine.models.synthetic import create
from llmbench.reference_engine.profiling.command import measure, show
from llmbench.reference_engine.profiling.roofline import measure_ceilings
from llmbench.reference_engine.profiling.step_profile import MODEL_PARTS, StepRow


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="synthetic:llama-150m")
    parser.add_argument("--quantization", choices=["int8", "int4"], default="int4")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--graphs", nargs="+", choices=["off", "cpu"], default=["off", "cpu"])
    arguments = parser.parse_args()
    ceilings = measure_ceilings(arguments.threads)
    for graphs in arguments.graphs:
        print(f"\n=== {arguments.model} {arguments.quantization}, batch {arguments.batch}, graphs {graphs}")
        config = engine_config(create(arguments.model), arguments, graphs)
        rows = measure(config, arguments.batch, 32, arguments.steps)
        decodes = [row for row in rows if row.num_prefill_tokens == 0]
        show(decodes, ceilings)
        low, middle, high = statistics.quantiles([overhead(row) for row in decodes], n=4)
        print(f"overhead: {middle:.1%} ± {(high - low) / 2:.1%} of a step")


def engine_config(checkpoint: Path, arguments: argparse.Namespace, graphs: str) -> EngineConfig:
    return EngineConfig(
        model_path=checkpoint,
        dtype="bfloat16",
        quantization=arguments.quantization,
        kernels="cpp",
        graphs=graphs,  # type: ignore[arg-type]
        num_threads=arguments.threads,
        max_model_len=1024,
    )


def overhead(row: StepRow) -> float:
    seconds = row.seconds()
    return 1 - sum(seconds[part] for part in MODEL_PARTS) / seconds["step"]


if __name__ == "__main__":
    main()
