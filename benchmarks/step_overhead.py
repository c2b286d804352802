"""How much of a decode step is not the model's arithmetic: scheduling, preparing tensors, sampling, Python in between.

    python benchmarks/step_overhead.py [--model synthetic:llama-150m] [--quantization int4] [--batch 8]

The steps are profiled in the process (llmbench profile --in-process): embedding, attention, MLP and head are the
model's, all the rest is overhead, the search for the most probable token and the text of the tokens included. The
profile's own stamps cost some µs a step and count as overhead too. With --graphs off and cpu in turns, what a replay
saves is seen: the Python between the operators is then within the parts.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import script

from llmbench.reference_engine.config import EngineConfig
from llmbench.reference_engine.models.sources import checkpoint_folder
from llmbench.reference_engine.profiling.command import measure, show
from llmbench.reference_engine.profiling.roofline import measure_ceilings
from llmbench.reference_engine.profiling.step_profile import MODEL_PARTS, StepRow

PROMPT_LEN = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="synthetic:llama-150m")
    parser.add_argument("--quantization", choices=["int8", "int4"], default="int4")
    parser.add_argument("--batch", type=script.at_least(1), default=8)
    parser.add_argument("--steps", type=script.at_least(2), default=200)
    parser.add_argument("--threads", type=script.at_least(1), default=2)
    parser.add_argument("--graphs", nargs="+", choices=["off", "cpu"], default=["off", "cpu"])
    arguments = parser.parse_args()
    checkpoint = checkpoint_folder(arguments.model)
    max_model_len = script.context_len(checkpoint)
    if PROMPT_LEN + arguments.steps > max_model_len:
        most = max_model_len - PROMPT_LEN
        parser.error(f"--steps: {arguments.model} holds {max_model_len} tokens, so {most} at most")
    ceilings = measure_ceilings(arguments.threads)
    for graphs in arguments.graphs:
        print(f"\n=== {arguments.model} {arguments.quantization}, batch {arguments.batch}, graphs {graphs}")
        config = engine_config(checkpoint, arguments, graphs)
        rows = measure(config, arguments.batch, PROMPT_LEN, arguments.steps)
        decodes = [row for row in rows if row.num_prefill_tokens == 0]
        show(decodes, ceilings)
        print(f"overhead: {script.spread([overhead(row) for row in decodes], '.1%', '.1%', ' ± ')} of a step")


def engine_config(checkpoint: Path, arguments: argparse.Namespace, graphs: str) -> EngineConfig:
    return EngineConfig(
        model_path=checkpoint,
        dtype="bfloat16",
        quantization=arguments.quantization,
        kernels="cpp",
        graphs=graphs,  # type: ignore[arg-type]
        num_threads=arguments.threads,
        max_num_seqs=max(32, arguments.batch),
        max_num_batched_tokens=max(512, arguments.batch),
        max_model_len=script.context_len(checkpoint),
    )


def overhead(row: StepRow) -> float:
    seconds = row.seconds()
    return 1 - sum(seconds[part] for part in MODEL_PARTS) / seconds["step"]


if __name__ == "__main__":
    script.run(main)
