"""Every Triton-language operator as torch sees it, in Triton's interpreter: what its schema says that it changes, and
its fake's shapes; and no kernel is launched around them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from llmbench.reference_engine.kernels.triton_lang import operators
from llmbench.reference_engine.kernels.triton_lang.packed_weight import pack
from llmbench.reference_engine.quantization.group_wise import quantize

OPS = getattr(torch.ops, operators.NAMESPACE)


def cases() -> dict[str, list[tuple[Any, ...]]]:
    """Operator to arguments for it."""
    caches = tuple(torch.zeros(2, 3, 16, 1, 16))
    int8_caches = tuple(torch.zeros(2, 3, 16, 1, 18, dtype=torch.int8))
    q, tables = torch.randn(3, 2, 16), torch.tensor([[1, 0], [2, 0], [0, 1]])
    turn, norms = (torch.randn(2, 1, 8), torch.randn(2, 1, 8)), (torch.rand(16), torch.rand(16), 1e-6)
    qkv, slots = torch.randn(2, 4 * 16), torch.tensor([1, 40])
    spans, tiles = torch.tensor([[0, 3, 5]]), torch.tensor([[0, 0]])

    def product(scheme: str, rows: int) -> tuple[Any, ...]:
        weight = pack(quantize(torch.randn(10, 70), scheme))  # type: ignore[arg-type]
        return (torch.randn(rows, 70), *weight, torch.rand(70), 1e-5, torch.rand(10), torch.rand(rows, 5), True)

    return {
        "rms_norm": [(torch.randn(rows, 40), torch.rand(40), 1e-5) for rows in (3, 0)],
        "swiglu": [(torch.randn(rows, 40),) for rows in (3, 0)],
        "gemv": [
            product("int8", 2),
            (torch.randn(1, 40), torch.randn(10, 40), None, None, torch.rand(40), 1e-5, None, torch.rand(1, 5), True),
            (torch.randn(0, 40), torch.randn(10, 40), None, None, None, 0.0, None, None, False),
        ],
        "unpack_weight": [(*product("fp8", 1)[1:4], 70, torch.bfloat16), (*product("int4", 1)[1:4], 70, torch.float32)],
        "quantized_linear": [
            product("int8", 3),
            product("int4", 0),
            product("fp8", 3),
            product("int8-weight-only", 1),
            product("int4-weight-only", 20),
        ],
        "rotary_kv": [
            (qkv, *turn, slots, *caches, 2, *norms),
            (qkv, None, None, slots, *int8_caches, 2, None, None, 0.0),
        ],
        "decode_attention": [
            (q, *caches, tables, torch.tensor([1, 17, 32]), 0.25, None),
            (q, *int8_caches, tables, torch.tensor([1, 17, 32]), 0.25, 4),
        ],
        "prefill_attention": [(q, *caches, tables[:1], spans, tiles, torch.empty(3, 2, 16), 0.25, None)],
    }


@pytest.mark.parametrize("name", cases())
def test_schema_and_fake_are_those_of_the_operator(name: str) -> None:
    for arguments in cases()[name]:
        torch.library.opcheck(getattr(OPS, name).default, arguments)


def test_no_operator_is_left_out() -> None:
    registered = torch._C._dispatch_get_registrations_for_dispatch_key("CUDA")
    prefix = f"{operators.NAMESPACE}::"
    assert {name.removeprefix(prefix) for name in registered if name.startswith(prefix)} == set(cases())
