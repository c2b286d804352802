"""Triton-language norm, activation and quantised product, in Triton's interpreter, against torch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from llmbench.reference_engine.config import QuantizationName
from llmbench.reference_engine.kernels.triton_lang.quantized_linear import pack, quantized_linear
from llmbench.reference_engine.kernels.triton_lang.rms_norm import rms_norm
from llmbench.reference_engine.kernels.triton_lang.swiglu import swiglu
from llmbench.reference_engine.kernels.triton_lang.weight_only_linear import weight_only_linear
from llmbench.reference_engine.quantization.group_wise import (
    QuantizedWeight,
    dequantize,
    quantize,
    round_activations,
)
from llmbench.reference_engine.quantization.kv_formats import FP8

DTYPES = [torch.float32, torch.bfloat16]
SIZES = [(0, 64, 64), (1, 64, 64), (3, 1, 1), (5, 200, 70), (17, 33, 130), (70, 128, 63)]


def close(ours: torch.Tensor, expected: torch.Tensor) -> None:
    """Near a result in float32, for the dtype of ours. The interpreter cuts to bfloat16 where a GPU rounds."""
    bound = 1e-4 if ours.dtype == torch.float32 else 2**-7
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
    close(weight_only_linear(x, pack(quantized)), x.float() @ dequantize(quantized, inputs).T)


def test_every_e4m3_code_is_read_as_torch_reads_it() -> None:
    codes = torch.arange(256, dtype=torch.uint8)
    codes[[127, 255]] = 0  # NaN
    numbers = codes.view(FP8)
    weight = QuantizedWeight(numbers.view(4, 64), torch.ones(4, 1, dtype=torch.bfloat16), "fp8")
    assert torch.equal(weight_only_linear(torch.eye(64), pack(weight)).T, numbers.float().view(4, 64))


def test_every_int4_code_survives_packing() -> None:
    codes = torch.arange(-8, 8, dtype=torch.int8).repeat(1, 4)
    weight = codes.float()
    quantized = quantize(weight, "int4")
    assert torch.equal(quantized.codes, codes)
    x = torch.eye(64) * 127  # 8-bit inputs that are exact: one column of the weight at a time
    torch.testing.assert_close(quantized_linear(x, pack(quantized)).T, 127 * dequantize(quantized, 64))
    alone = quantize(weight, "int4-weight-only")
    assert torch.equal(weight_only_linear(torch.eye(64), pack(alone)).T, dequantize(alone, 64))
