"""Triton-language norm, activation and quantised product, in Triton's interpreter, against torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F

from llmbench.reference_engine.config import QuantizationName
from llmbench.reference_engine.kernels.triton_lang import quantized_linear as quantized_linear_module
from llmbench.reference_engine.kernels.triton_lang.gemv import gemv
from llmbench.reference_engine.kernels.triton_lang.packed_weight import pack
from llmbench.reference_engine.kernels.triton_lang.quantized_linear import quantized_linear
from llmbench.reference_engine.kernels.triton_lang.rms_norm import rms_norm
from llmbench.reference_engine.kernels.triton_lang.swiglu import swiglu
from llmbench.reference_engine.kernels.triton_lang.unpack_weight import unpack_weight
from llmbench.reference_engine.quantization.group_wise import (
    QuantizedWeight,
    dequantize,
    quantize,
    round_activations,
    rounds_activations,
)
from llmbench.reference_engine.quantization.kv_formats import FP8

DTYPES = [torch.float32, torch.bfloat16]
SIZES = [(0, 64, 64), (1, 64, 64), (3, 1, 1), (5, 200, 70), (17, 33, 130), (70, 128, 63)]


def close(ours: torch.Tensor, expected: torch.Tensor, bfloat16_bound: float = 2**-7) -> None:
    """Near a result in float32, for the dtype of ours. The interpreter cuts to bfloat16 where a GPU rounds."""
    bound = 1e-4 if ours.dtype == torch.float32 else bfloat16_bound
    torch.testing.assert_close(ours.float(), expected, atol=bound, rtol=bound)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "columns"), [(0, 64), (1, 1), (5, 1), (5, 64), (1, 200), (3, 1000)])
def test_rms_norm_equals_torch(rows: int, columns: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    wider, weight = (3 * torch.randn(rows, columns + 3)).to(dtype), torch.rand(columns).to(dtype)
    x = wider[:, :columns]  # whose rows are strided
    close(rms_norm(x, weight, 1e-5), F.rms_norm(x.float(), (columns,), weight.float(), 1e-5))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "columns"), [(0, 8), (1, 1), (2, 1024), (3, 1100)])
def test_swiglu_equals_torch(rows: int, columns: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    gate_up = (3 * torch.randn(rows, 2 * columns)).to(dtype)
    gate, up = gate_up.float().chunk(2, dim=-1)
    close(swiglu(gate_up), F.silu(gate) * up)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scheme", ["int8", "int4"])
@pytest.mark.parametrize(("rows", "inputs", "outputs"), SIZES)
def test_the_quantised_product_equals_torch_s(
    scheme: QuantizationName, rows: int, inputs: int, outputs: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(rows, inputs).to(dtype), torch.randn(outputs, inputs)
    x[:1] = 0.0
    quantized = quantize(weight, scheme)
    close(quantized_linear(x, pack(quantized)), round_activations(x.float()) @ dequantize(quantized, inputs).T)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scheme", ["int8-weight-only", "int4-weight-only", "fp8"])
@pytest.mark.parametrize(("rows", "inputs", "outputs"), SIZES)
@pytest.mark.usefixtures("bfloat16_arithmetic")
def test_the_product_with_quantised_weights_alone_equals_torch_s(
    scheme: QuantizationName, rows: int, inputs: int, outputs: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(rows, inputs).to(dtype), torch.randn(outputs, inputs) * torch.rand(outputs, 1)
    x[:1, :8] = 0.0
    quantized = quantize(weight, scheme)
    close(quantized_linear(x, pack(quantized)), x.float() @ dequantize(quantized, inputs).T)


def around(
    x: torch.Tensor, weight: torch.Tensor, is_gated: bool, *, rounds: bool = False
) -> tuple[dict[str, Any], torch.Tensor]:
    """A norm, a bias and a residual for a product, and what it is with all of them, in float32."""
    num_outputs = weight.shape[0] // 2 if is_gated else weight.shape[0]
    norm_weight, bias = torch.rand(x.shape[1]).to(x.dtype), torch.randn(weight.shape[0]).to(x.dtype)
    residual = torch.randn(x.shape[0], num_outputs).to(x.dtype)
    normed = F.rms_norm(x.float(), x.shape[1:], norm_weight.float(), 1e-5)
    y = (round_activations(normed) if rounds else normed) @ weight.float().T + bias.float()
    if is_gated:
        gate, up = y.chunk(2, dim=-1)
        y = F.silu(gate) * up
    parts = {"norm_weight": norm_weight, "eps": 1e-5, "bias": bias, "residual": residual, "is_gated": is_gated}
    return parts, residual.float() + y


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("is_gated", [False, True])
@pytest.mark.parametrize(
    ("rows", "inputs", "outputs"), [(0, 64, 64), (1, 64, 64), (2, 1, 2), (2, 200, 70), (1, 1100, 6)]
)
@pytest.mark.usefixtures("bfloat16_arithmetic")
def test_a_vector_s_product_with_all_around_it_equals_torch_s(
    rows: int, inputs: int, outputs: int, is_gated: bool, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    wider = torch.randn(rows, inputs + 3).to(dtype)
    x, weight = wider[:, :inputs], (torch.randn(outputs, inputs) / inputs**0.5).to(dtype)
    parts, expected = around(x, weight, is_gated)
    close(gemv(x, weight, **parts), expected)
    close(gemv(x, weight), x.float() @ weight.float().T)


@pytest.mark.parametrize("multiply", [gemv, quantized_linear])
@pytest.mark.parametrize("is_gated", [False, True])
@pytest.mark.parametrize("scheme", get_args(QuantizationName))
@pytest.mark.parametrize("rows", [0, 1, 2, 16, 40])
def test_a_quantised_product_with_all_around_it_equals_torch_s(
    scheme: QuantizationName, rows: int, is_gated: bool, multiply: Callable[..., torch.Tensor]
) -> None:
    torch.manual_seed(0)
    wider = torch.randn(rows, 203)
    x, weight = wider[:, :200], torch.randn(70, 200) / 14
    quantized = quantize(weight, scheme)
    rounds = rounds_activations(scheme)
    parts, expected = around(x, dequantize(quantized, 200), is_gated, rounds=rounds)
    ours = multiply(x, pack(quantized), **parts)
    # An input at the edge of two codes may have the other one: gemv rounds before the norm's scale and not after it.
    few = ours.numel() // 50 if rounds else 0
    assert ((ours - expected).abs() > 1e-4 * (1 + expected.abs())).sum() <= few
    torch.testing.assert_close(ours, expected, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("num_splits", [1, 3])
def test_however_a_product_is_split_it_is_the_same(num_splits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(quantized_linear_module, "_MAX_SPLITS", num_splits)
    x, quantized = torch.randn(5, 1000), quantize(torch.randn(70, 1000), "int8")
    close(quantized_linear(x, pack(quantized)), round_activations(x) @ dequantize(quantized, 1000).T)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scheme", get_args(QuantizationName))
@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (200, 5), (64 * 17, 3)])
def test_weights_are_unpacked_as_torch_does_it(
    scheme: QuantizationName, inputs: int, outputs: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    quantized = quantize(torch.randn(outputs, inputs), scheme)
    close(unpack_weight(pack(quantized), inputs, dtype), dequantize(quantized, inputs))


def test_every_e4m3_code_is_read_as_torch_reads_it() -> None:
    codes = torch.arange(256, dtype=torch.uint8)
    codes[[127, 255]] = 0  # NaN
    numbers = codes.view(FP8)
    weight = QuantizedWeight(numbers.view(4, 64), torch.ones(4, 1, dtype=torch.bfloat16), "fp8")
    for multiply in (quantized_linear, gemv):
        assert torch.equal(multiply(torch.eye(64), pack(weight)).T, numbers.float().view(4, 64))


def test_every_int4_code_survives_packing() -> None:
    codes = torch.arange(-8, 8, dtype=torch.int8).repeat(1, 4)
    weight = codes.float()
    quantized = quantize(weight, "int4")
    assert torch.equal(quantized.codes, codes)
    x = torch.eye(64) * 127  # 8-bit inputs that are exact: one column of the weight at a time
    torch.testing.assert_close(quantized_linear(x, pack(quantized)).T, 127 * dequantize(quantized, 64))
    alone = quantize(weight, "int4-weight-only")
    assert torch.equal(quantized_linear(torch.eye(64), pack(alone)).T, dequantize(alone, 64))
