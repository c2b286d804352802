"""Every C++ operator as torch sees it: its schema says what it changes, and its fake has the shapes of its results."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from llmbench.reference_engine.kernels.contract import Kernels
from llmbench.reference_engine.kernels.packing import pack

# Linear: bias, activation, weight and bias of the norm, its epsilon, residual.
PLAIN = (None, 0, None, None, 0.0, None)
FUSED = (torch.randn(128), 1, torch.rand(70), torch.randn(70), 1e-5, torch.randn(3, 33))


def linear(scheme: str | None, rows: int, rest: tuple[Any, ...], dtype: torch.dtype = torch.float32) -> tuple[Any, ...]:
    is_swiglu = rest[1] == 1
    weight = torch.randn(66 if is_swiglu else 33, 70).to(dtype)
    packed, number = pack(weight, scheme, pairs=is_swiglu)  # type: ignore[arg-type]
    return (torch.randn(rows, 70), packed, number, 33, *rest)


def attention(spans: list[list[int]], cache: torch.Tensor, rotated: int | None = None) -> tuple[Any, ...]:
    """Two heads of 32 that share a key head, over two blocks of 16."""
    caches = (cache, cache.clone())
    turn = (None, None) if rotated is None else (torch.randn(64, rotated), torch.randn(64, rotated))
    norms = (None, None) if rotated is None else (torch.rand(32), torch.rand(32))
    num_tokens = sum(span[1] for span in spans)
    tables = torch.tensor([[1, 0]] * len(spans), dtype=torch.int64).view(len(spans), 2)
    qkv = torch.randn(num_tokens, 4 * 32)
    return (qkv, *caches, torch.tensor(spans, dtype=torch.int64).view(-1, 3), tables, *turn, *norms, 1e-6, 2, 0.5, 0)


def cases() -> dict[str, list[tuple[Any, ...]]]:
    """Operator to arguments for it."""
    cache, int8_cache = torch.zeros(2, 16, 1, 32), torch.zeros(2, 16, 1, 34, dtype=torch.int8)
    return {
        "linear": [
            linear(None, 3, PLAIN),
            linear(None, 3, PLAIN, torch.bfloat16),
            linear("int8", 3, FUSED),
            linear("int4", 1, PLAIN),
            linear("int4-weight-only", 2, (*FUSED[:-1], torch.randn(2, 33))),
            linear("fp8", 0, PLAIN),
        ],
        "attention": [
            attention([[0, 3, 3]], cache),
            attention([[0, 1, 20], [1, 4, 4]], int8_cache, rotated=16),
            attention([], cache),
        ],
        "embedding": [
            (torch.randn(9, 5), torch.tensor([8, 0]), None),
            (torch.randn(9, 5).bfloat16(), torch.tensor([3]), torch.randn(1, 5)),
            (torch.randn(9, 5), torch.empty(0, dtype=torch.int64), None),
        ],
        "argmax": [(torch.randn(4, 33),), (torch.randn(0, 33),)],
        "checksum": [(torch.arange(64, dtype=torch.uint8),), (torch.empty(0, dtype=torch.uint8),)],
    }


@pytest.mark.parametrize("name", cases())
def test_schema_and_fake_are_those_of_the_operator(name: str, load_cpp: Any) -> None:
    load_cpp("portable")
    for arguments in cases()[name]:
        torch.library.opcheck(getattr(torch.ops.llmbench, name).default, arguments)


def test_a_stamp_has_a_fake_too(load_cpp: Any) -> None:
    """Its result is the clock's, so that opcheck, which runs an operator twice, would find it unequal."""
    load_cpp("portable")
    stamps = torch.zeros(2, dtype=torch.int64)
    torch.library.opcheck(torch.ops.llmbench.stamp.default, (stamps, 1), test_utils=("test_schema", "test_faketensor"))
    torch.ops.llmbench.stamp(stamps.to("meta"), 1)


def test_no_operator_is_left_out(load_cpp: Any) -> None:
    load_cpp("portable")
    registered = torch._C._dispatch_get_registrations_for_dispatch_key("CPU")
    names = {name.removeprefix("llmbench::") for name in registered if name.startswith("llmbench::")}
    assert names == {*cases(), "stamp"}


def test_the_sum_of_bytes_is_that_of_their_words(cpp: Kernels) -> None:
    data = torch.randint(0, 256, (8 * 40_000,), dtype=torch.uint8)
    assert torch.equal(torch.ops.llmbench.checksum(data), data.view(torch.int64).sum())
