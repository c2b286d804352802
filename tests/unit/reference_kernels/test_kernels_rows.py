"""What picks rows and numbers without multiplying: the embedding and the argmax of each instruction set."""

from __future__ import annotations

import pytest
import torch

from llmbench.reference_engine.kernels.contract import Kernels


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("num_ids", "columns"), [(0, 64), (1, 1), (1, 64), (7, 33)])
def test_embedding_equals_torch(cpp: Kernels, oracle: Kernels, dtype: torch.dtype, num_ids: int, columns: int) -> None:
    generator = torch.Generator().manual_seed(columns)
    table = torch.randn(50, columns, generator=generator).to(dtype)
    ids = torch.randint(0, 50, (num_ids,), generator=generator)
    residual = torch.randn(num_ids, columns, generator=generator)
    for base in (None, residual):
        ours = cpp.embedding(table, ids, base)
        assert ours.dtype == torch.float32
        assert torch.equal(ours, oracle.embedding(table, ids, base).float())


def test_ids_that_the_table_has_not_are_refused(cpp: Kernels) -> None:
    for wrong in (-1, 4):
        with pytest.raises(RuntimeError, match=f"id {wrong} is not one of the table's 4"):
            cpp.embedding(torch.randn(4, 8), torch.tensor([0, wrong]))


@pytest.mark.parametrize("columns", [1, 7, 8, 15, 16, 17, 63, 64, 65, 1003])
def test_argmax_is_the_first_of_the_largest(cpp: Kernels, oracle: Kernels, columns: int) -> None:
    generator = torch.Generator().manual_seed(columns)
    logits = torch.randint(-9, 9, (6, columns), generator=generator).float()
    logits[0, -1] = 50
    logits[1] = -torch.inf
    logits[1, columns // 2] = -3e38
    logits[2] = 0
    assert torch.equal(cpp.argmax(logits), oracle.argmax(logits))
    assert cpp.argmax(logits[:0]).shape == (0,)
    assert torch.equal(cpp.argmax(logits[:1]), torch.tensor([columns - 1]))
