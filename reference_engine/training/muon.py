"""Muon: momentum whose matrices are made orthogonal before they are applied.

Source: K. Jordan, "Muon: an optimizer for hidden layers in neural networks", 2024. As torch.optim.Muon, which computes
in bfloat16: that is several times slower than float32 where a processor has no instructions for it.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

MOMENTUM = 0.95
WEIGHT_DECAY = 0.05
_NUM_ITERATIONS = 5


class Muon:
    """For the matrices of hidden layers. Matrices of one shape are updated as one batch."""

    def __init__(self, matrices: Iterable[torch.Tensor]) -> None:
        self._by_shape: dict[torch.Size, list[torch.Tensor]] = {}
        for matrix in matrices:
            self._by_shape.setdefault(matrix.shape, []).append(matrix)
        self.momenta = [matrices[0].new_zeros(len(matrices), *shape) for shape, matrices in self._by_shape.items()]

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """One update with the matrices' gradients, which are dropped.

        `learning_rate` is one for AdamW: the update is scaled to the root mean square that AdamW's has (Liu et al.,
        "Muon is scalable for LLM training", arXiv:2502.16982).
        """
        for (shape, matrices), momentum in zip(self._by_shape.items(), self.momenta, strict=True):
            gradient = torch.stack([matrix.grad for matrix in matrices if matrix.grad is not None])
            momentum.lerp_(gradient, 1 - MOMENTUM)
            update = orthogonalise(gradient.lerp(momentum, MOMENTUM))
            for matrix, direction in zip(matrices, update, strict=True):
                matrix.mul_(1 - learning_rate * WEIGHT_DECAY)
                matrix.add_(direction, alpha=-0.2 * max(shape) ** 0.5 * learning_rate)
                matrix.grad = None


def orthogonalise(matrices: torch.Tensor) -> torch.Tensor:
    """[n, rows, columns] with all singular values moved close to 1 (0.7 to 1.2), by Newton and Schulz's iteration."""
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if is_tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(_NUM_ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return x.mT if is_tall else x
