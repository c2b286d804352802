"""The fused linear of each instruction set against torch, over odd shapes, and a row's independence of its batch."""

from __future__ import annotations

import pytest
import torch

from llmbench.reference_engine.kernels.contract import ActivationName, Kernels, LinearParts, NormWeights

QUANTIZED = ["int8", "int4", "fp8", "int8-weight-only", "int4-weight-only"]
FORMATS = ["float32", "bfloat16", *QUANTIZED]
# Relative to the largest output. bf16: the sums are float32 on both sides, but torch rounds its result to bf16.
TOLERANCES = {"float32": 1e-5, "bfloat16": 2e-2, **dict.fromkeys(QUANTIZED, 2e-5)}


def make_linear(
    kernels: Kernels,
    weight_format: str,
    in_features: int,
    out_features: int,
    *,
    activation: ActivationName | None = None,
    norm: str | None = None,
    bias: bool = False,
):  # -> LinearKernel
    generator = torch.Generator().manual_seed(in_features * 1000 + out_features)
    dtype = torch.bfloat16 if weight_format == "bfloat16" else torch.float32
    num_rows = 2 * out_features if activation == "swiglu" else out_features
    weight = (torch.randn(num_rows, in_features, generator=generator) * 0.1).to(dtype)
    norms = {
        None: None,
        "rms": NormWeights(torch.randn(in_features, generator=generator).to(dtype), None, 1e-5),
        "layer": NormWeights(*torch.randn(2, in_features, generator=generator).to(dtype), 1e-5),
    }
    quantization = weight_format if weight_format in QUANTIZED else None
    biases = torch.randn(num_rows, generator=generator).to(dtype) if bias else None
    return kernels.linear(LinearParts(weight, biases, norms[norm], activation, quantization))  # type: ignore[arg-type]


def inputs(num_rows: int, in_features: int) -> torch.Tensor:
    return torch.randn(num_rows, in_features, generator=torch.Generator().manual_seed(num_rows)) + 0.3


def assert_close(ours: torch.Tensor, expected: torch.Tensor, weight_format: str) -> None:
    assert ours.dtype == torch.float32
    assert ours.shape == expected.shape
    error = (ours - expected.float()).abs().max() / expected.abs().max()
    assert error < TOLERANCES[weight_format]


@pytest.mark.parametrize("weight_format", FORMATS)
@pytest.mark.parametrize(
    ("num_rows", "in_features", "out_features"),
    [(1, 64, 64), (2, 256, 192), (3, 65, 1), (4, 1, 63), (7, 130, 100), (33, 192, 321)],
)
def test_equals_torch_for_odd_shapes(
    cpp: Kernels, oracle: Kernels, weight_format: str, num_rows: int, in_features: int, out_features: int
) -> None:
    x = inputs(num_rows, in_features)
    ours, theirs = (make_linear(kernels, weight_format, in_features, out_features) for kernels in (cpp, oracle))
    assert_close(ours(x), theirs(x.to(oracle.activation_dtype(theirs.weight.dtype))), weight_format)


@pytest.mark.parametrize("weight_format", FORMATS)
@pytest.mark.parametrize("norm", [None, "rms", "layer"])
@pytest.mark.parametrize("activation", [None, "swiglu", "gelu", "gelu_tanh"])
def test_norm_activation_bias_and_residual_equal_torch(
    cpp: Kernels, oracle: Kernels, weight_format: str, norm: str | None, activation: ActivationName | None
) -> None:
    x, residual = inputs(5, 100), inputs(5, 70)
    settings = {"activation": activation, "norm": norm, "bias": True}
    ours, theirs = (make_linear(kernels, weight_format, 100, 70, **settings) for kernels in (cpp, oracle))
    dtype = oracle.activation_dtype(theirs.weight.dtype)
    assert_close(ours(x, residual), theirs(x.to(dtype), residual.to(dtype)), weight_format)


@pytest.mark.parametrize("weight_format", FORMATS)
def test_a_row_is_the_same_to_the_bit_in_any_batch(cpp: Kernels, weight_format: str) -> None:
    linear = make_linear(cpp, weight_format, 200, 130, norm="rms", activation="swiglu")
    x = inputs(11, 200)
    together = linear(x)
    for num_rows in (1, 2, 3, 6):
        assert torch.equal(linear(x[-num_rows:].contiguous()), together[-num_rows:])


@pytest.mark.parametrize("weight_format", FORMATS)
def test_equals_torch_for_every_cut_of_rows_into_blocks(cpp: Kernels, oracle: Kernels, weight_format: str) -> None:
    """Up to 6 rows are computed together, up to 128 by one thread, and what is left over in shorter blocks."""
    ours, theirs = (make_linear(kernels, weight_format, 65, 33, norm="rms") for kernels in (cpp, oracle))
    for num_rows in (*range(1, 15), 127, 128, 129, 135, 257):
        x = inputs(num_rows, 65)
        assert_close(ours(x), theirs(x.to(oracle.activation_dtype(theirs.weight.dtype))), weight_format)


@pytest.mark.parametrize("weight_format", FORMATS)
def test_no_rows_give_no_rows(cpp: Kernels, oracle: Kernels, weight_format: str) -> None:
    dtype = torch.bfloat16 if weight_format == "bfloat16" else torch.float32
    for kernels in (cpp, oracle):
        none, residual = (torch.empty(0, n, dtype=kernels.activation_dtype(dtype)) for n in (64, 10))
        assert make_linear(kernels, weight_format, 64, 10)(none).shape == (0, 10)
        fused = make_linear(kernels, weight_format, 64, 10, activation="swiglu", norm="layer", bias=True)
        assert fused(none, residual).shape == (0, 10)


def test_zero_inputs_and_zero_weights_stay_zero(cpp: Kernels) -> None:
    for weight_format in QUANTIZED:
        assert (make_linear(cpp, weight_format, 64, 10)(torch.zeros(2, 64)) == 0).all()
        silent = cpp.linear(LinearParts(torch.zeros(10, 64), quantization=weight_format))  # type: ignore[arg-type]
        assert (silent(inputs(2, 64)) == 0).all()


def test_wrong_shapes_are_refused(cpp: Kernels) -> None:
    linear = make_linear(cpp, "int8", 64, 10)
    with pytest.raises(RuntimeError, match="x has 65 columns"):
        linear(torch.zeros(1, 65))
    with pytest.raises(RuntimeError, match="residual must be 10 contiguous float32 numbers"):
        linear(torch.zeros(1, 64), torch.zeros(1, 11))
