"""`python -m llmbench.reference_engine`: serve a checkpoint, and make synthetic ones."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from llmbench.reference_engine.errors import ReferenceEngineError

app = typer.Typer(help="The bundled inference engine.", no_args_is_help=True, pretty_exceptions_enable=False)
models_app = typer.Typer(help="Synthetic checkpoints: random weights, real tokenizers.", no_args_is_help=True)
app.add_typer(models_app, name="models")


@app.command()
def serve(
    model: Annotated[Path, typer.Option(help="Checkpoint folder in Hugging Face layout.", show_default=False)],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)] = 8000,
    served_model_name: Annotated[
        str | None, typer.Option(help="Name that requests ask for.", show_default="the folder's name")
    ] = None,
    dtype: Annotated[
        Literal["float32", "bfloat16"], typer.Option(help="Of weights, activations and KV cache.")
    ] = "float32",
    quantization: Annotated[
        Literal["int8", "int4"] | None, typer.Option(help="Of the linear layers' weights.", show_default="none")
    ] = None,
    max_model_len: Annotated[
        int | None, typer.Option(help="Longest prompt plus answer, in tokens.", show_default="the model's")
    ] = None,
    max_num_seqs: Annotated[int, typer.Option(help="Requests computed at once; the others wait.")] = 32,
    max_num_batched_tokens: Annotated[int, typer.Option(help="Tokens computed in one step.")] = 512,
    block_size: Annotated[int, typer.Option(help="Tokens per KV block.")] = 16,
    num_blocks: Annotated[
        int | None, typer.Option(help="Size of the KV cache in blocks.", show_default="by --kv-cache-gib")
    ] = None,
    kv_cache_gib: Annotated[
        float | None, typer.Option(help="Size of the KV cache in GiB, if not --num-blocks.", show_default="1")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Threads that compute.", show_default="one per core")] = None,
    kernels: Annotated[str, typer.Option(help="Kernel backend; auto takes the fastest that runs here.")] = "auto",
    seed: Annotated[int, typer.Option(help="Of sampled requests that bring none.")] = 0,
    max_waiting: Annotated[int, typer.Option(help="Requests that may wait; one more gets a 429.", min=0)] = 1024,
    log_format: Annotated[Literal["text", "json"], typer.Option(help="Of the log on stderr.")] = "text",
    drain_s: Annotated[int, typer.Option(help="Seconds that running requests get to end when stopped.", min=0)] = 1,
) -> None:
    """Serve a model behind OpenAI's HTTP interface, until SIGTERM or Ctrl-C."""
    from llmbench.reference_engine.config import EngineConfig
    from llmbench.reference_engine.server.logs import configure_logging
    from llmbench.reference_engine.server.serve import ServerConfig
    from llmbench.reference_engine.server.serve import serve as run_server

    configure_logging(log_format)
    config = EngineConfig(
        model_path=model,
        dtype=dtype,
        quantization=quantization,
        block_size=block_size,
        num_blocks=num_blocks,
        kv_cache_gib=kv_cache_gib,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        max_model_len=max_model_len,
        num_threads=threads,
        kernels=kernels,
        seed=seed,
    )
    server = ServerConfig(
        host=host,
        port=port,
        model_name=served_model_name or model.resolve().name,
        max_waiting=max_waiting,
        drain_s=drain_s,
        log_format=log_format,
    )
    raise typer.Exit(run_server(config, server))


@models_app.command("list")
def list_models() -> None:
    """The synthetic models there are, and their sizes."""
    from llmbench.reference_engine.models.synthetic import PREFIX, PRESETS, num_parameters

    width = max(map(len, PRESETS)) + len(PREFIX)
    for name, preset in PRESETS.items():
        typer.echo(
            f"{PREFIX + name:{width}}  {num_parameters(preset) / 1e6:7.1f} M parameters, {preset.num_layers} layers of "
            f"{preset.hidden_size}, vocabulary {preset.vocab_size}, context {preset.max_position_embeddings}"
        )


@models_app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="synthetic:NAME, as `models list` prints it.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder to write.", show_default="the cache, ~/.cache/llmbench")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the random weights.", min=0)] = 0,
) -> None:
    """Write a synthetic model's checkpoint, unless the cache has it, and print its folder."""
    from llmbench.reference_engine.models import synthetic

    typer.echo(synthetic.create(name, seed, out))


def main() -> None:
    """Run the command line. An error that the user can mend is one sentence and exit code 2."""
    try:
        app(prog_name="python -m llmbench.reference_engine")
    except ReferenceEngineError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
