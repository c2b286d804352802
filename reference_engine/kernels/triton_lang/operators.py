"""The Triton-language kernels as torch sees them: torch.ops.llmbench_triton.*, each with the shapes of its results for
torch.compile and meta tensors. On a CPU they run in Triton's interpreter alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from llmbench.reference_engine.config import QuantizationName
from llmbench.reference_engine.kernels.triton_lang.decode_attention import decode_attention
from llmbench.reference_engine.kernels.triton_lang.gemv import gemv
from llmbench.reference_engine.kernels.triton_lang.packed_weight import PackedWeight
from llmbench.reference_engine.kernels.triton_lang.prefill_attention import prefill_attention
from llmbench.reference_engine.kernels.triton_lang.quantized_linear import quantized_linear
from llmbench.reference_engine.kernels.triton_lang.rms_norm import rms_norm
from llmbench.reference_engine.kernels.triton_lang.rotary_kv import rotary_kv
from llmbench.reference_engine.kernels.triton_lang.swiglu import swiglu
from llmbench.reference_engine.kernels.triton_lang.unpack_weight import unpack_weight

NAMESPACE = "llmbench_triton"
_LIBRARY = torch.library.Library(NAMESPACE, "DEF")  # type: ignore[no-untyped-call]


def _register(schema: str, run: Callable[..., Any], fake: Callable[..., Any]) -> None:
    _LIBRARY.define(schema)  # type: ignore[no-untyped-call]
    name = schema.partition("(")[0]
    for key in ("CUDA", "CPU"):  # a HIP device is called CUDA too
        _LIBRARY.impl(name, run, key)  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=_LIBRARY)


def _turn_and_write(
    qkv: torch.Tensor,
    cos: torch.Tensor | None,
    sin: torch.Tensor | None,
    slots: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    num_heads: int,
    q_norm: torch.Tensor | None,
    k_norm: torch.Tensor | None,
    eps: float,
) -> None:
    rotation = None if cos is None or sin is None else (cos, sin)
    norms = None if q_norm is None or k_norm is None else (q_norm, k_norm, eps)
    rotary_kv(qkv, rotation, slots, k_cache, v_cache, num_heads, norms)


def _nothing(*_: object) -> None:
    """The result of what writes into its arguments."""


def _gemv(
    x: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor | None, scheme: QuantizationName | None, *further: Any
) -> torch.Tensor:
    return gemv(x, codes if scales is None or scheme is None else PackedWeight(codes, scales, scheme), *further)


def _multiply_quantized(
    x: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor, scheme: QuantizationName, *further: Any
) -> torch.Tensor:
    return quantized_linear(x, PackedWeight(codes, scales, scheme), *further)


def _unpack(
    codes: torch.Tensor, scales: torch.Tensor, scheme: QuantizationName, num_inputs: int, dtype: torch.dtype
) -> torch.Tensor:
    return unpack_weight(PackedWeight(codes, scales, scheme), num_inputs, dtype)


def _outputs(x: torch.Tensor, num_weight_rows: int, is_gated: bool) -> torch.Tensor:
    return x.new_empty(x.shape[0], num_weight_rows // 2 if is_gated else num_weight_rows)


_register(
    "rms_norm(Tensor x, Tensor weight, float eps) -> Tensor", rms_norm, lambda x, _weight, _eps: x.new_empty(x.shape)
)
_register(
    "swiglu(Tensor gate_up) -> Tensor",
    swiglu,
    lambda gate_up: gate_up.new_empty(gate_up.shape[0], gate_up.shape[1] // 2),
)
_register(
    "gemv(Tensor x, Tensor codes, Tensor? scales, str? scheme, Tensor? norm_weight, float eps, Tensor? bias, "
    "Tensor? residual, bool is_gated) -> Tensor",
    _gemv,
    lambda x, codes, _scales, _scheme, _norm, _eps, _bias, _residual, is_gated: _outputs(x, codes.shape[0], is_gated),
)
_register(
    "unpack_weight(Tensor codes, Tensor scales, str scheme, int num_inputs, ScalarType dtype) -> Tensor",
    _unpack,
    lambda codes, scales, _scheme, num_inputs, dtype: codes.new_empty(scales.shape[1], num_inputs, dtype=dtype),
)
_register(
    "quantized_linear(Tensor x, Tensor codes, Tensor scales, str scheme, Tensor? norm_weight, float eps, Tensor? bias, "
    "Tensor? residual, bool is_gated) -> Tensor",
    _multiply_quantized,
    lambda x, _codes, scales, _scheme, _norm, _eps, _bias, _residual, is_gated: _outputs(x, scales.shape[1], is_gated),
)
_register(
    "rotary_kv(Tensor(a!) qkv, Tensor? cos, Tensor? sin, Tensor slots, Tensor(b!) k_cache, Tensor(c!) v_cache, "
    "int num_heads, Tensor? q_norm, Tensor? k_norm, float eps) -> ()",
    _turn_and_write,
    _nothing,
)
_register(
    "decode_attention(Tensor q, Tensor k_cache, Tensor v_cache, Tensor block_tables, Tensor context_lens, float scale, "
    "int? window) -> Tensor",
    decode_attention,
    lambda q, *_: q.new_empty(q.shape),
)
_register(
    "prefill_attention(Tensor q, Tensor k_cache, Tensor v_cache, Tensor block_tables, Tensor spans, Tensor tiles, "
    "Tensor(a!) out, float scale, int? window) -> ()",
    prefill_attention,
    _nothing,
)
