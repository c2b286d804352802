"""Codes and scales: the error they may make, and the cases at the edge."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbench.reference_engine.config import QuantizationName
from llmbench.reference_engine.quantization import kv_formats
from llmbench.reference_engine.quantization.group_wise import GROUP_SIZE, dequantize, quantize, round_activations

STEPS: dict[QuantizationName, int] = {"int8": 127, "int4": 8}


@given(
    scheme=st.sampled_from(["int8", "int4"]),
    rows=st.integers(1, 5),
    columns=st.integers(1, 200),
    magnitude=st.sampled_from([1e-6, 0.02, 1.0, 300.0]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_error_is_at_most_half_a_step_but_at_the_far_end(
    scheme: QuantizationName, rows: int, columns: int, magnitude: float, seed: int
) -> None:
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * magnitude
    quantized = quantize(weight, scheme)
    num_groups = -(-columns // GROUP_SIZE)
    assert quantized.codes.shape == (rows, num_groups * GROUP_SIZE)
    assert quantized.scales.shape == (rows, num_groups)
    assert (quantized.codes[:, columns:] == 0).all()
    back = dequantize(quantized, columns)
    steps = quantized.scales.float().abs().repeat_interleave(GROUP_SIZE, dim=1)[:, :columns]
    # int4 has no +8, so the end that is not the group's largest magnitude is up to a whole step away; and the scale's
    # own rounding to bfloat16, 2^-9, moves the largest code.
    allowed = (1.0 if scheme == "int4" else 0.5) + STEPS[scheme] * 2**-8
    assert ((back - weight).abs() <= steps * allowed).all()


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_weights_alone_have_the_same_codes(scheme: QuantizationName) -> None:
    weight = torch.randn(5, 130)
    quantized, alone = quantize(weight, scheme), quantize(weight, f"{scheme}-weight-only")  # type: ignore[arg-type]
    assert torch.equal(quantized.codes, alone.codes)
    assert torch.equal(quantized.scales, alone.scales)


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_zero_groups_stay_zero(scheme: QuantizationName) -> None:
    weight = torch.zeros(2, 130)
    weight[1, 70] = 3.0
    back = dequantize(quantize(weight, scheme), 130)
    assert (back[0] == 0).all()
    assert (back[1] != 0).sum() == 1


def test_int4_uses_the_level_that_only_one_sign_has() -> None:
    weight = torch.tensor([[8.0, -7.0, 4.0, 0.0]])
    assert torch.equal(dequantize(quantize(weight, "int4"), 4), weight)
    assert torch.equal(dequantize(quantize(-weight, "int4"), 4), -weight)


def test_rounded_activations_keep_extremes_and_zeros() -> None:
    x = torch.randn(3, 100, generator=torch.Generator().manual_seed(1))
    x[1] = 0
    rounded = round_activations(x)
    assert (rounded[1] == 0).all()
    for row in (0, 2):
        for group in (slice(0, 64), slice(64, 100)):
            step = x[row, group].abs().max() / 127
            assert (rounded[row, group] - x[row, group]).abs().max() <= step * 0.501


@pytest.mark.parametrize("storage", [torch.bfloat16, torch.int8, kv_formats.FP8], ids=str)
def test_no_rows_and_no_tokens_are_rounded_to_none(storage: torch.dtype) -> None:
    assert round_activations(torch.empty(0, 70)).shape == (0, 70)
    stored = kv_formats.encode(torch.empty(0, 2, 48), storage)
    assert stored.shape == (0, 2, kv_formats.stored_width(48, storage))
    assert kv_formats.decode(stored).shape == (0, 2, 48)


def test_fp8_is_within_a_sixteenth_of_each_weight_or_half_its_smallest_step() -> None:
    weight = torch.randn(7, 200, generator=torch.Generator().manual_seed(5)) * 0.02
    weight[3] = 0
    quantized = quantize(weight, "fp8")
    scales = quantized.scales.float().repeat_interleave(GROUP_SIZE, dim=1)[:, :200].abs()
    error = (dequantize(quantized, 200) - weight).abs()
    # The scale is rounded to bfloat16, which can push the largest weight beyond 448 by 2^-9 of it.
    assert (error <= torch.maximum(weight.abs() * (1 / 16 + 2**-8), scales * 2**-10)).all()
    assert (error[3] == 0).all()


@pytest.mark.parametrize("storage", [torch.int8, torch.float8_e4m3fn], ids=["int8", "fp8"])
def test_stored_keys_come_back_as_near_as_their_format_allows(storage: torch.dtype) -> None:
    x = torch.randn(5, 3, 48, generator=torch.Generator().manual_seed(2))
    x[1, 1] = 0
    stored = kv_formats.encode(x, storage)
    assert stored.shape == (5, 3, kv_formats.stored_width(48, storage))
    back = kv_formats.decode(stored)
    largest = x.abs().amax(dim=-1, keepdim=True)
    allowed = (
        largest / 127 * (0.5 + 127 * 2**-8)
        if storage == torch.int8
        else torch.maximum(x.abs() / 16, torch.tensor(2**-10))
    )
    assert ((back - x).abs() <= allowed).all()
    assert kv_formats.decode(kv_formats.encode(torch.full((1, 4), 1e9), torch.float8_e4m3fn)).max() == 448
