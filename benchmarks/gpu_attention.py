"""Our Triton-language attention beside torch's scaled_dot_product_attention, on one GPU.

    python benchmarks/gpu_attention.py [--heads 32] [--kv-heads 8] [--head-dim 128] [--dtype bfloat16]

Decode: one query per sequence over a paged cache of `context` tokens; torch gets its keys and values gathered already,
which it could not have in a server. Prefill: one causal prompt. Times are Triton's do_bench: the median of many
replays of a graph of one call, as a decode step runs it, the cache of the processor flushed before each; behind it the
quartiles. The roofline is what a copy of 1 GiB and a product of 8192 x 8192 matrices reach here, measured first and
without a graph: in one, an H100 copied a fifth slower.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F

BLOCK_SIZE = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", type=int, default=32)
    parser.add_argument("--kv-heads", type=int, default=8)
    parser.add_argument("--head-dim", type=int, default=128)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--contexts", type=int, nargs="+", default=[512, 4096])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 64, 256])
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit(f"This benchmark needs a CUDA or HIP device; torch {torch.__version__} finds none.")
    torch.set_default_device("cuda")
    dtype = getattr(torch, arguments.dtype)
    bytes_per_s, flops = ceilings(dtype)
    print(f"{torch.cuda.get_device_name()}: {bytes_per_s / 1e9:.0f} GB/s copied, {flops / 1e12:.0f} TFLOP/s multiplied")
    layout = (arguments.heads, arguments.kv_heads, arguments.head_dim)
    for context in arguments.contexts:
        for batch in arguments.batches:
            decode(batch, context, layout, dtype, bytes_per_s)
    for context in arguments.contexts:
        prefill(context, layout, dtype, flops)


def ceilings(dtype: torch.dtype) -> tuple[float, float]:
    """Bytes moved and operations done per second, by the best of what this device was seen to do."""
    from triton.testing import do_bench

    gib = torch.empty(2**30, dtype=torch.uint8)
    copied = torch.empty_like(gib)
    matrix = torch.randn(8192, 8192, dtype=dtype)
    copy_ms = do_bench(lambda: copied.copy_(gib), return_mode="median")
    multiply_ms = do_bench(lambda: matrix @ matrix, return_mode="median")
    return 2 * 2**30 / copy_ms * 1e3, 2 * 8192**3 / multiply_ms * 1e3


def timed(run: Callable[[], object]) -> tuple[float, float, float]:
    """Seconds of one call, replayed from a graph: lower quartile, median, upper quartile."""
    from triton.testing import do_bench

    run()  # what is compiled or allocated on first use must not be recorded
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    low, middle, high = do_bench(graph.replay, quantiles=[0.25, 0.5, 0.75])
    return low / 1e3, middle / 1e3, high / 1e3


def decode(batch: int, context: int, layout: tuple[int, int, int], dtype: torch.dtype, bytes_per_s: float) -> None:
    from llmbench.reference_engine.kernels.triton_lang.decode_attention import decode_attention

    H, G, D = layout
    num_blocks = -(-context // BLOCK_SIZE)
    tables = torch.randperm(batch * num_blocks).view(batch, num_blocks)
    k_cache, v_cache = torch.randn(2, batch * num_blocks, BLOCK_SIZE, G, D, dtype=dtype)
    q, context_lens = torch.randn(batch, H, D, dtype=dtype), torch.full((batch,), context)
    ours = timed(lambda: decode_attention(q, k_cache, v_cache, tables, context_lens, D**-0.5))
    keys, values = torch.randn(2, batch, G, context, D, dtype=dtype)
    single = q.unsqueeze(2)
    theirs = timed(lambda: F.scaled_dot_product_attention(single, keys, values, enable_gqa=True))
    num_bytes = 2 * batch * context * G * D * dtype.itemsize
    show(
        f"decode, batch {batch}, context {context}", ours, theirs, num_bytes / ours[1] / bytes_per_s, "of the bandwidth"
    )


def prefill(length: int, layout: tuple[int, int, int], dtype: torch.dtype, flops: float) -> None:
    from llmbench.reference_engine.kernels.triton_lang.prefill_attention import prefill_attention
    from llmbench.reference_engine.step_batch import TILE_ROWS

    H, G, D = layout
    num_blocks = -(-length // BLOCK_SIZE)
    k_cache, v_cache = torch.randn(2, num_blocks, BLOCK_SIZE, G, D, dtype=dtype)
    tables, spans = torch.randperm(num_blocks).unsqueeze(0), torch.tensor([[0, length, length]])
    tiles = torch.tensor([(0, first) for first in range(0, length, TILE_ROWS)])
    q = torch.randn(length, H, D, dtype=dtype)
    out = torch.empty_like(q)
    ours = timed(lambda: prefill_attention(q, k_cache, v_cache, tables, spans, tiles, out, D**-0.5))
    query, keys, values = (torch.randn(1, heads, length, D, dtype=dtype) for heads in (H, G, G))
    theirs = timed(lambda: F.scaled_dot_product_attention(query, keys, values, is_causal=True, enable_gqa=True))
    num_operations = 2 * H * length**2 * D  # two products, half of each under the causal mask
    show(f"prefill of {length}", ours, theirs, num_operations / ours[1] / flops, "of the arithmetic")


def show(
    case: str, ours: tuple[float, float, float], theirs: tuple[float, float, float], share: float, ceiling: str
) -> None:
    columns = [
        f"{name} {t[1] * 1e6:8.1f} µs ({t[0] * 1e6:.1f} to {t[2] * 1e6:.1f})"
        for name, t in (("ours", ours), ("torch", theirs))
    ]
    print(f"{case:32} {'   '.join(columns)}   {theirs[1] / ours[1]:5.2f}x   {share:6.1%} {ceiling}")


if __name__ == "__main__":
    main()
