"""The Triton-language and CUDA kernels on a device against the torch kernels on the same inputs."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from llmbench.reference_engine.config import QuantizationName
from llmbench.reference_engine.kernels import attention_torch
from llmbench.reference_engine.kernels.block_copies import copy_blocks
from llmbench.reference_engine.kernels.contract import ActivationName, LinearParts, NormWeights
from llmbench.reference_engine.kernels.torch_kernels import TorchKernels
from llmbench.reference_engine.quantization import kv_formats
from llmbench.reference_engine.quantization.group_wise import QuantizedWeight, dequantize, quantize, round_activations
from llmbench.reference_engine.step_batch import TILE_ROWS

CUDA = torch.device("cuda")
BLOCK_SIZE = 16
DTYPES = [torch.float32, torch.bfloat16]
LAYOUTS = [(4, 4, 64), (8, 2, 64), (32, 8, 128), (16, 1, 80)]


def tolerance(dtype: torch.dtype) -> dict[str, float]:
    return {"atol": 2e-2, "rtol": 2e-2} if dtype == torch.bfloat16 else {"atol": 1e-4, "rtol": 1e-4}


def paged_cache(lengths: list[int], G: int, D: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    needed = [-(-length // BLOCK_SIZE) for length in lengths]
    shuffled = torch.randperm(sum(needed))
    tables = torch.zeros(len(lengths), max(needed), dtype=torch.int64)
    for row, count in enumerate(needed):
        tables[row, :count] = shuffled[sum(needed[:row]) :][:count]
    k_cache, v_cache = torch.randn(2, sum(needed), BLOCK_SIZE, G, D, dtype=dtype, device="cuda")
    return k_cache, v_cache, tables.cuda()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [None, 100])
@pytest.mark.parametrize(("H", "G", "D"), LAYOUTS)
def test_decode_attention(H: int, G: int, D: int, window: int | None, dtype: torch.dtype) -> None:
    from llmbench.reference_engine.kernels.triton_lang.decode_attention import decode_attention

    torch.manual_seed(0)
    lengths = [1, 15, 16, 17, 500, 2049]
    k_cache, v_cache, tables = paged_cache(lengths, G, D, dtype)
    q, context_lens = torch.randn(len(lengths), H, D, dtype=dtype, device="cuda"), torch.tensor(lengths).cuda()
    with torch.device("cuda"):
        expected = attention_torch.decode(q, k_cache, v_cache, tables, context_lens, D**-0.5, window)
    ours = decode_attention(q, k_cache, v_cache, tables, context_lens, D**-0.5, window)
    torch.testing.assert_close(ours, expected, **tolerance(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("H", "G", "D"), LAYOUTS)
def test_prefill_attention(H: int, G: int, D: int, dtype: torch.dtype) -> None:
    from llmbench.reference_engine.kernels.triton_lang.prefill_attention import prefill_attention

    torch.manual_seed(0)
    chunks = [(5, 5), (200, 200), (33, 1000), (1, 64)]  # (rows, context up to the last of them)
    k_cache, v_cache, tables = paged_cache([context for _, context in chunks], G, D, dtype)
    starts = [sum(rows for rows, _ in chunks[:index]) for index in range(len(chunks))]
    spans = torch.tensor([(start, *chunk) for start, chunk in zip(starts, chunks, strict=True)]).cuda()
    tiles = torch.tensor([(i, first) for i, (rows, _) in enumerate(chunks) for first in range(0, rows, TILE_ROWS)])
    q = torch.randn(sum(rows for rows, _ in chunks), H, D, dtype=dtype, device="cuda")
    ours = torch.empty_like(q)
    prefill_attention(q, k_cache, v_cache, tables, spans, tiles.cuda(), ours, D**-0.5)
    for start, (rows, context), table in zip(starts, chunks, tables, strict=True):
        with torch.device("cuda"):
            expected = attention_torch.prefill(q[start : start + rows], k_cache, v_cache, table, context, D**-0.5)
        torch.testing.assert_close(ours[start : start + rows], expected, **tolerance(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("stored", [torch.int8, kv_formats.FP8])
@pytest.mark.parametrize(("H", "G", "D"), LAYOUTS)
def test_attention_over_a_quantised_cache(H: int, G: int, D: int, stored: torch.dtype, dtype: torch.dtype) -> None:
    from llmbench.reference_engine.kernels.triton_lang.decode_attention import decode_attention
    from llmbench.reference_engine.kernels.triton_lang.prefill_attention import prefill_attention

    torch.manual_seed(0)
    lengths = [1, 15, 16, 17, 500, 2049]
    *caches, tables = paged_cache(lengths, G, D, torch.float32)
    k_cache, v_cache = (kv_formats.encode(cache, stored) for cache in caches)
    q, context_lens = torch.randn(len(lengths), H, D, dtype=dtype, device="cuda"), torch.tensor(lengths).cuda()
    with torch.device("cuda"):
        expected = attention_torch.decode(q, k_cache, v_cache, tables, context_lens, D**-0.5)
    torch.testing.assert_close(
        decode_attention(q, k_cache, v_cache, tables, context_lens, D**-0.5), expected, **tolerance(dtype)
    )
    # The same queries as chunks of one row each.
    spans = torch.tensor([(row, 1, length) for row, length in enumerate(lengths)]).cuda()
    tiles = torch.tensor([(row, 0) for row in range(len(lengths))]).cuda()
    out = torch.empty_like(q)
    prefill_attention(q, k_cache, v_cache, tables, spans, tiles, out, D**-0.5)
    torch.testing.assert_close(out, expected, **tolerance(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scheme", ["int8-weight-only", "int4-weight-only", "fp8"])
@pytest.mark.parametrize("rows", [1, 17, 200])
def test_the_product_with_quantised_weights_alone(scheme: str, rows: int, dtype: torch.dtype) -> None:
    from llmbench.reference_engine.kernels.triton_lang.packed_weight import pack
    from llmbench.reference_engine.kernels.triton_lang.quantized_linear import quantized_linear

    torch.manual_seed(0)
    x, weight = torch.randn(rows, 1000, dtype=dtype, device="cuda"), torch.randn(777, 1000, device="cuda")
    quantized = quantize(weight, scheme)  # type: ignore[arg-type]
    expected = (x.float() @ dequantize(quantized, 1000).T).to(dtype)
    bound = 1e-3 if dtype == torch.float32 else 0.5
    torch.testing.assert_close(quantized_linear(x, pack(quantized)), expected, atol=bound, rtol=2e-2)


@pytest.mark.parametrize("scheme", ["int8", "int4"])
@pytest.mark.parametrize("rows", [1, 17, 200])
def test_the_quantised_product(scheme: str, rows: int) -> None:
    from llmbench.reference_engine.kernels.triton_lang.packed_weight import pack
    from llmbench.reference_engine.kernels.triton_lang.quantized_linear import quantized_linear

    torch.manual_seed(0)
    x, weight = torch.randn(rows, 1000, device="cuda"), torch.randn(777, 1000, device="cuda")
    quantized = quantize(weight, scheme)  # type: ignore[arg-type]
    expected = round_activations(x) @ dequantize(quantized, 1000).T
    torch.testing.assert_close(quantized_linear(x, pack(quantized)), expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("kind", [None, *get_args(QuantizationName)])
@pytest.mark.parametrize("is_gated", [False, True])
@pytest.mark.parametrize("rows", [1, 2, 7, 16, 17, 300])
def test_a_linear_with_norm_activation_and_residual(kind: QuantizationName | None, is_gated: bool, rows: int) -> None:
    """The layer as the model calls it, in bfloat16, against the oracle in float32."""
    from llmbench.reference_engine.kernels.triton_kernels import TritonKernels

    torch.manual_seed(0)
    with torch.device("cuda"):
        x, weight = torch.randn(rows, 1000), torch.randn(778, 1000) / 30
        norm = NormWeights(torch.rand(1000), None, 1e-5)
        residual = torch.randn(rows, 389 if is_gated else 778)
    activation: ActivationName | None = "swiglu" if is_gated else None
    expected = TorchKernels(1, CUDA).linear(LinearParts(weight, None, norm, activation, kind))(x, residual)
    narrow = NormWeights(norm.weight.bfloat16(), None, norm.eps)
    parts = LinearParts(weight if kind else weight.bfloat16(), None, narrow, activation, kind)
    ours = TritonKernels(1, CUDA).linear(parts)(x.bfloat16(), residual.bfloat16())
    error = (ours.float() - expected).norm() / expected.norm()
    assert error < 1e-2


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_e4m3_code_is_read_as_torch_reads_it(dtype: torch.dtype) -> None:
    """Subnormal ones too, which a GPU may be told to take for zeros."""
    from llmbench.reference_engine.kernels.triton_lang.gemv import gemv
    from llmbench.reference_engine.kernels.triton_lang.packed_weight import pack
    from llmbench.reference_engine.kernels.triton_lang.quantized_linear import quantized_linear
    from llmbench.reference_engine.kernels.triton_lang.unpack_weight import unpack_weight

    codes = torch.arange(256, dtype=torch.uint8, device="cuda")
    codes[[127, 255]] = 0  # NaN
    numbers = codes.view(kv_formats.FP8).view(4, 64)
    weight = pack(QuantizedWeight(numbers, torch.ones(4, 1, dtype=torch.bfloat16, device="cuda"), "fp8"))
    expected = numbers.float().to(dtype)
    for multiply in (quantized_linear, gemv):
        assert torch.equal(multiply(torch.eye(64, dtype=dtype, device="cuda"), weight).T, expected)
    assert torch.equal(unpack_weight(weight, 64, dtype), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_blocks_are_copied_within_a_cache_and_to_the_host_and_back(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    cache = torch.randn(3, 2, 10, BLOCK_SIZE, 2, 8, dtype=dtype, device="cuda")
    host = torch.zeros(3, 2, 4, BLOCK_SIZE, 2, 8, dtype=dtype, pin_memory=True)
    expected = cache.cpu()
    for source, target in (pairs := [(0, 5), (5, 6), (1, 0), (2, 9)]):
        expected[:, :, target] = expected[:, :, source]
    copy_blocks(cache, cache, pairs)
    assert torch.equal(cache.cpu(), expected)
    copy_blocks(host, cache, [(5, 3), (9, 0)])
    cache.zero_()
    copy_blocks(cache, host, [(3, 7), (0, 1)])
    torch.cuda.synchronize()
    assert torch.equal(cache[:, :, 7].cpu(), expected[:, :, 5])
    assert torch.equal(cache[:, :, 1].cpu(), expected[:, :, 9])
    assert not cache[:, :, 0].any()
