"""Weights rounded to int4 one input after another, each error made good by the inputs that are still to come.

Source: Frantar, Ashkboos, Hoefler, Alistarh, "GPTQ", arXiv:2210.17323, without the reordering of inputs.
"""

from __future__ import annotations

import torch

from llmbench.reference_engine.quantization.group_wise import CODES, GROUP_SIZE, QuantizedWeight, group_scales

DAMPING = 0.01


@torch.no_grad()
def gptq(weight: torch.Tensor, gram: torch.Tensor) -> QuantizedWeight:
    """int4 codes that keep weight · x near for inputs like those measured, where each weight's nearest code would not.

    weight float32 [out_features, in_features], in_features a multiple of GROUP_SIZE; gram [in_features, in_features] is
    the sum of x xᵀ over the calibration's inputs.
    """
    columns = weight.shape[1]
    if columns % GROUP_SIZE:
        raise ValueError(f"{columns} inputs are no multiple of {GROUP_SIZE}")
    rest = weight.double().clone()
    spread = _inverse_factor(gram.double())
    low, high = CODES["int4"]
    codes = torch.empty(weight.shape, dtype=torch.int8)
    scales = torch.empty(weight.shape[0], columns // GROUP_SIZE, dtype=torch.bfloat16)
    for group in range(columns // GROUP_SIZE):
        first, last = group * GROUP_SIZE, (group + 1) * GROUP_SIZE
        scale = group_scales(rest[:, first:last].float(), "int4")
        scales[:, group] = scale.squeeze(-1)
        step = scale.squeeze(-1).double()
        errors = torch.empty(weight.shape[0], GROUP_SIZE, dtype=torch.float64)
        for column in range(first, last):
            code = torch.where(step == 0, 0.0, rest[:, column] / step).round().clamp(low, high)
            codes[:, column] = code.to(torch.int8)
            error = (rest[:, column] - code * step) / spread[column, column]
            rest[:, column:last] -= error.unsqueeze(1) * spread[column, column:last]
            errors[:, column - first] = error
        rest[:, last:] -= errors @ spread[first:last, last:]
    return QuantizedWeight(codes, scales, "int4")


def _inverse_factor(gram: torch.Tensor) -> torch.Tensor:
    """Upper Cholesky factor of the damped Gram matrix's inverse; an input that was always zero counts by itself."""
    gram = gram.clone()
    diagonal = gram.diagonal()
    diagonal[diagonal == 0] = 1.0
    diagonal += DAMPING * diagonal.mean()
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
    factor: torch.Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor
