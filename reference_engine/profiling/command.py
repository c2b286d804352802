"""`python -m llmbench.reference_engine profile`: where the time of the engine's steps goes, without a server."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from llmbench.reference_engine.config import EngineConfig
    from llmbench.reference_engine.profiling.roofline import Ceilings
    from llmbench.reference_engine.profiling.step_profile import StepRow


def profile(
    model: Annotated[
        str, typer.Option(help="Checkpoint folder, bundled:NAME or synthetic:NAME (models list).", show_default=False)
    ],
    batch: Annotated[int, typer.Option(help="Sequences that decode at once.", min=1)] = 1,
    prompt_len: Annotated[int, typer.Option(help="Tokens of each prompt, drawn at random.", min=1)] = 32,
    tokens: Annotated[int, typer.Option(help="Tokens decoded of each sequence.", min=2)] = 64,
    dtype: Annotated[
        Literal["float32", "bfloat16"], typer.Option(help="Of weights, activations and KV cache.")
    ] = "float32",
    quantization: Annotated[
        Literal["int8", "int4", "fp8", "int8-weight-only", "int4-weight-only"] | None,
        typer.Option(help="Of the linear layers' weights.", show_default="none"),
    ] = None,
    kernels: Annotated[Literal["auto", "cpp", "torch"], typer.Option(help="Kernel backend.")] = "auto",
    graphs: Annotated[
        Literal["auto", "off", "cpu"], typer.Option(help="Decode steps replayed, or kernel by kernel from Python.")
    ] = "auto",
    threads: Annotated[int | None, typer.Option(help="Threads that compute.", show_default="one per core")] = None,
    trace: Annotated[Path | None, typer.Option(help="Chrome trace of the steps to write.", show_default="none")] = None,
    torch_trace: Annotated[
        Path | None, typer.Option(help="Chrome trace of torch.profiler to write.", show_default="none")
    ] = None,
) -> None:
    """Profile the engine's steps on the CPU: schedule, prepare, embed, attention, MLP, head, sample, detokenise.

    Each part's bytes and operations stand beside what this machine reads and multiplies at best, which is measured
    first. With --torch-trace the steps run under torch.profiler, and are slower for it; it sees inside of a step only
    with --graphs off.
    """
    from llmbench.reference_engine.config import EngineConfig
    from llmbench.reference_engine.errors import ConfigError, KernelsUnavailableError
    from llmbench.reference_engine.kernels.dispatch import DEFAULT_NUM_THREADS
    from llmbench.reference_engine.models.sources import checkpoint_folder
    from llmbench.reference_engine.profiling.chrome_trace import write_chrome_trace
    from llmbench.reference_engine.profiling.roofline import measure_ceilings

    config = EngineConfig(
        model_path=checkpoint_folder(model),
        dtype=dtype,
        quantization=quantization,
        kernels=kernels,
        graphs=graphs,
        num_threads=threads,
        max_num_seqs=batch,
        max_num_batched_tokens=max(512, batch),
        max_model_len=prompt_len + tokens,
    )
    ceilings: Ceilings | None = None
    with contextlib.suppress(KernelsUnavailableError):
        ceilings = measure_ceilings(threads or DEFAULT_NUM_THREADS)
    rows = measure(config, batch, prompt_len, tokens, torch_trace)
    show(rows, ceilings)
    if trace is not None:
        try:
            write_chrome_trace(rows, trace)
        except OSError as error:
            raise ConfigError(f"--trace {trace}: cannot be written: {error.strerror}.") from None
        typer.echo(f"trace: {trace}")
    if torch_trace is not None:
        typer.echo(f"torch.profiler's trace: {torch_trace}")


def measure(
    config: EngineConfig, batch: int, prompt_len: int, num_tokens: int, torch_trace: Path | None = None
) -> list[StepRow]:
    """All steps of a batch of random prompts, answered greedily; after an unprofiled round of the same."""
    import torch

    from llmbench.reference_engine.engine import Engine
    from llmbench.reference_engine.errors import ConfigError
    from llmbench.reference_engine.outputs import StepOutput
    from llmbench.reference_engine.profiling.step_profile import StepProfiler
    from llmbench.reference_engine.sampling import SamplingParams
    from llmbench.reference_engine.tokenizer import Tokenizer

    engine = Engine(config)
    tokenizer = Tokenizer(config.model_path)
    streams = [tokenizer.stream() for _ in range(batch)]

    def detokenise(outputs: Sequence[StepOutput]) -> None:
        for output in outputs:
            for token_id in output.new_token_ids:
                streams[int(output.request_id)].push(token_id)

    profiler = StepProfiler(engine, detokenise)
    rng = random.Random(0)
    params = SamplingParams(max_tokens=num_tokens, temperature=0, ignore_eos=True)

    def round_of_steps() -> list[StepRow]:
        for index in range(batch):
            prompt = [rng.randrange(engine.model_config.vocab_size) for _ in range(prompt_len)]
            engine.add_request(str(index), prompt, params)
        rows: list[StepRow] = []
        while engine.has_work():
            row = profiler.step()
            rows += [] if row is None else [row]
        return rows

    round_of_steps()
    if torch_trace is None:
        return round_of_steps()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as recorded:
        rows = round_of_steps()
    try:
        recorded.export_chrome_trace(str(torch_trace))
    except (OSError, RuntimeError) as error:
        raise ConfigError(f"--torch-trace {torch_trace}: cannot be written: {error}.") from None
    return rows


def show(rows: Sequence[StepRow], ceilings: Ceilings | None) -> None:
    """A table for each kind of step, most frequent first."""
    from llmbench.reference_engine.profiling.step_profile import by_kind, figures

    if ceilings is None:
        typer.echo("This machine's ceilings are not measured: the C++ kernels do not compile here.")
    else:
        typer.echo(
            f"ceilings: {ceilings.bytes_per_s / 1e9:.1f} GB/s read, {ceilings.operations_per_s / 1e9:.0f} GFLOP/s in "
            "float32 matrix products"
        )
    for kind, same in sorted(by_kind(rows).items(), key=lambda item: -len(item[1])):
        typer.echo(f"\n{kind}: {len(same)} steps; median ± half the interquartile range")
        typer.echo(f"{'part':12}{'µs':>10}{'':9}{'share':>7}{'GB/s':>8}{'of read':>9}{'GFLOP/s':>9}{'of float32':>12}")
        for part, found in figures(same).items():
            line = f"{part:12}{found.seconds * 1e6:10.0f} ±{found.spread * 1e6:7.0f}{found.share:7.1%}"
            if found.bytes_per_s is not None and found.operations_per_s is not None:
                reached, computed = found.bytes_per_s / 1e9, found.operations_per_s / 1e9
                of_read = of_float32 = "–"
                if ceilings is not None:
                    of_read = f"{found.bytes_per_s / ceilings.bytes_per_s:.0%}"
                    of_float32 = f"{found.operations_per_s / ceilings.operations_per_s:.0%}"
                line += f"{reached:8.1f}{of_read:>9}{computed:9.1f}{of_float32:>12}"
            typer.echo(line)
