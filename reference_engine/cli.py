"""`python -m llmbench.reference_engine`: serve a checkpoint, and make synthetic ones."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from llmbench.reference_engine.errors import ReferenceEngineError
from llmbench.reference_engine.models.sources import checkpoint_folder, create_checkpoint
from llmbench.reference_engine.profiling.command import profile

app = typer.Typer(help="The bundled inference engine.", no_args_is_help=True, pretty_exceptions_enable=False)
app.command("profile")(profile)
models_app = typer.Typer(help="Models that need no download.", no_args_is_help=True)
app.add_typer(models_app, name="models")


@app.command()
def serve(
    model: Annotated[
        str, typer.Option(help="Checkpoint folder, bundled:NAME or synthetic:NAME (models list).", show_default=False)
    ],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)] = 8000,
    served_model_name: Annotated[
        str | None, typer.Option(help="Name that requests ask for.", show_default="the folder's name")
    ] = None,
    dtype: Annotated[
        Literal["float32", "bfloat16"], typer.Option(help="Of weights, activations and KV cache.")
    ] = "float32",
    device: Annotated[
        Literal["cpu", "cuda"], typer.Option(help="Where it computes; HIP devices are cuda too.")
    ] = "cpu",
    kv_cache_dtype: Annotated[
        Literal["auto", "int8", "fp8"], typer.Option(help="Of stored keys and values; auto is --dtype.")
    ] = "auto",
    quantization: Annotated[
        Literal["int8", "int4", "fp8", "int8-weight-only", "int4-weight-only"] | None,
        typer.Option(help="Of the linear layers' weights; int8 and int4 round their inputs too.", show_default="none"),
    ] = None,
    graphs: Annotated[
        Literal["auto", "off", "cpu", "cuda", "compile"],
        typer.Option(help="Decode steps recorded and replayed: by a CPU, as CUDA graphs, or compiled by torch."),
    ] = "auto",
    max_model_len: Annotated[
        int | None, typer.Option(help="Longest prompt plus answer, in tokens.", show_default="the model's")
    ] = None,
    max_num_seqs: Annotated[int, typer.Option(help="Requests computed at once; the others wait.")] = 32,
    max_num_batched_tokens: Annotated[int, typer.Option(help="Tokens computed in one step.")] = 512,
    block_size: Annotated[
        int, typer.Option(help="Tokens per KV block; as many as --max-model-len makes the KV cache contiguous.")
    ] = 16,
    num_blocks: Annotated[
        int | None, typer.Option(help="Size of the KV cache in blocks.", show_default="by --kv-cache-gib")
    ] = None,
    kv_cache_gib: Annotated[
        float | None, typer.Option(help="Size of the KV cache in GiB, if not --num-blocks.", show_default="1")
    ] = None,
    prefix_cache: Annotated[bool, typer.Option(help="Keep KV blocks for prompts with the same beginning.")] = True,
    eviction: Annotated[
        Literal["lru", "fifo", "age"], typer.Option(help="Which cached KV block gives way first.")
    ] = "lru",
    preemption: Annotated[
        Literal["recompute", "swap"], typer.Option(help="What becomes of KV blocks that an older request needs.")
    ] = "recompute",
    num_swap_blocks: Annotated[
        int | None, typer.Option(help="Room for swapped KV blocks.", show_default="as many as the KV cache has")
    ] = None,
    compaction: Annotated[
        Literal["off", "idle"], typer.Option(help="Give memory of the KV cache back when few blocks are in use.")
    ] = "off",
    num_kept_blocks: Annotated[
        int | None, typer.Option(help="KV blocks that stay in memory then.", show_default="an eighth of the KV cache")
    ] = None,
    batching: Annotated[
        Literal["continuous", "dynamic", "static"], typer.Option(help="When waiting requests may join.")
    ] = "continuous",
    max_batch_delay_ms: Annotated[float, typer.Option(help="How long a dynamic batch waits for more requests.")] = 5.0,
    step_order: Annotated[
        Literal["decode-first", "prefill-first"], typer.Option(help="What a step spends its tokens on first.")
    ] = "decode-first",
    fairness: Annotated[
        Literal["fcfs", "vtc"],
        typer.Option(help="Who is served first: whoever came first, or the user who was served least."),
    ] = "fcfs",
    speculative: Annotated[
        str | None, typer.Option(help="Source of drafts: ngram, or a draft model as in --model.", show_default="none")
    ] = None,
    num_speculative_tokens: Annotated[int, typer.Option(help="Most drafts verified per step and sequence.")] = 4,
    speculative_max_seqs: Annotated[
        int | None, typer.Option(help="No drafts while more sequences decode.", show_default="any number")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Threads that compute.", show_default="one per core")] = None,
    kernels: Annotated[str, typer.Option(help="Kernel backend; auto takes the fastest that runs here.")] = "auto",
    seed: Annotated[int, typer.Option(help="Of sampled requests that bring none.")] = 0,
    max_waiting: Annotated[int, typer.Option(help="Requests that may wait; one more gets a 429.", min=0)] = 1024,
    log_format: Annotated[Literal["text", "json"], typer.Option(help="Of the log on stderr.")] = "text",
    drain_s: Annotated[int, typer.Option(help="Seconds that running requests get to end when stopped.", min=0)] = 30,
    grpc_port: Annotated[
        int | None, typer.Option(help="Serve gRPC here too; 0 takes a free one.", min=0, max=65535, show_default="off")
    ] = None,
) -> None:
    """Serve a model behind OpenAI's HTTP interface, until SIGTERM or Ctrl-C."""
    from llmbench.reference_engine.config import EngineConfig
    from llmbench.reference_engine.server.logs import configure_logging
    from llmbench.reference_engine.server.serve import ServerConfig
    from llmbench.reference_engine.server.serve import serve as run_server

    configure_logging(log_format)
    model_path = checkpoint_folder(model)
    config = EngineConfig(
        model_path=model_path,
        dtype=dtype,
        kv_cache_dtype=kv_cache_dtype,
        device=device,
        graphs=graphs,
        quantization=quantization,
        block_size=block_size,
        num_blocks=num_blocks,
        kv_cache_gib=kv_cache_gib,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        max_model_len=max_model_len,
        num_threads=threads,
        prefix_cache=prefix_cache,
        eviction=eviction,
        preemption=preemption,
        num_swap_blocks=num_swap_blocks,
        compaction=compaction,
        num_kept_blocks=num_kept_blocks,
        batching=batching,
        max_batch_delay_ms=max_batch_delay_ms,
        step_order=step_order,
        fairness=fairness,
        speculative=_draft_source(speculative),
        num_speculative_tokens=num_speculative_tokens,
        speculative_max_seqs=speculative_max_seqs,
        kernels=kernels,
        seed=seed,
    )
    server = ServerConfig(
        host=host,
        port=port,
        model_name=served_model_name or (model if ":" in model else model_path.resolve().name),
        max_waiting=max_waiting,
        drain_s=drain_s,
        grpc_port=grpc_port,
        log_format=log_format,
    )
    raise typer.Exit(run_server(config, server))


@models_app.command("list")
def list_models() -> None:
    """The models that need no download, and their sizes."""
    from llmbench.reference_engine.models.bundled import NAMES
    from llmbench.reference_engine.models.bundled import PREFIX as BUNDLED
    from llmbench.reference_engine.models.synthetic import PREFIX, PRESETS, num_parameters

    width = max(map(len, PRESETS)) + len(PREFIX)
    for name in NAMES:
        typer.echo(f"{BUNDLED + name:{width}}  trained on Python's standard library, in this package")
    for name, preset in PRESETS.items():
        typer.echo(
            f"{PREFIX + name:{width}}  random weights: {num_parameters(preset) / 1e6:.1f} M parameters, "
            f"{preset.num_layers} layers of {preset.hidden_size}, vocabulary {preset.vocab_size}, "
            f"context {preset.max_position_embeddings}"
        )


@models_app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="synthetic:NAME or bundled:NAME, as `models list` prints it.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to write, new or empty.", show_default="the cache, ~/.cache/llmbench"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the random weights.", min=0)] = 0,
) -> None:
    """Write a synthetic model's checkpoint, unless the cache has it, and print its folder; copy a bundled one."""
    typer.echo(create_checkpoint(name, seed, out))


@models_app.command("quantize")
def quantize(
    model: Annotated[str, typer.Argument(help="Checkpoint folder, or a model as `models list` prints it.")],
    out: Annotated[Path, typer.Option(help="Folder to write, new or empty.")],
    text: Annotated[
        Path | None, typer.Option(help="UTF-8 text to calibrate on.", show_default="Python's standard library")
    ] = None,
    windows: Annotated[int, typer.Option(help="Pieces of the text that are read.", min=1)] = 32,
    window: Annotated[int, typer.Option(help="Tokens of a piece, at most the model's context.", min=16)] = 256,
) -> None:
    """Write a checkpoint with the layers' weights in int4, calibrated by GPTQ, as compressed-tensors stores them."""
    from llmbench.reference_engine.models.new_folder import check_new_folder
    from llmbench.reference_engine.quantization.calibration import calibration_windows, quantise_checkpoint

    check_new_folder(out)  # before minutes of reading and calibrating
    folder = checkpoint_folder(model)
    quantise_checkpoint(folder, out, calibration_windows(folder, text, windows, window))
    typer.echo(out)


def _draft_source(name: str | None) -> Literal["ngram"] | Path | None:
    if name is None:
        return None
    return "ngram" if name == "ngram" else checkpoint_folder(name)


def main() -> None:
    """Run the command line. An error that the user can mend is one sentence and exit code 2."""
    try:
        app(prog_name="python -m llmbench.reference_engine")
    except ReferenceEngineError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
