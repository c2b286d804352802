"""Compiles every kernel of kernels/triton_lang for sm_90 in bfloat16 and prints its name once it is machine code.

Products of floats are compiled for float32 too. Ends with an error for a kernel that does not compile, or is not in the
list.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from llmbench.reference_engine.kernels import triton_lang
from llmbench.reference_engine.kernels.triton_lang import (
    decode_attention,
    prefill_attention,
    quantized_linear,
    rms_norm,
    rotary_kv,
    swiglu,
    weight_only_linear,
)

HEADS = {"H": 32, "G": 8, "D": 128}
TILES = {**HEADS, "D_PADDED": 128, "BLOCK_SIZE": 16}
PRODUCT = {"GROUP": 64, "ROWS": 16, "COLUMNS": 64}

CACHES = {"float": "*bf16", "int8": "*i8", "fp8": "*u8"}

# (kernel, types of its run-time arguments in order, its constants)
VARIANTS = [
    (rms_norm.rms_norm_kernel, "*bf16 *bf16 *bf16 i32 i32 fp32", {"BLOCK": 4096}),
    (swiglu.swiglu_kernel, "*bf16 *bf16 i32", {"BLOCK": 1024}),
    (
        decode_attention.decode_combine_kernel,
        "*fp32 *fp32 *bf16",
        {"H": 32, "D": 128, "D_PADDED": 128, "NUM_SPLITS": 8, "SPLITS_PADDED": 8},
    ),
    (quantized_linear.round_rows_kernel, "*bf16 *i8 *fp32 i32 i32", {"GROUP": 64}),
    (quantized_linear.quantized_linear_kernel, "*i8 *fp32 *i8 *fp32 *bf16 i32 i32 i32", {**PRODUCT, "IS_INT4": False}),
    (quantized_linear.quantized_linear_kernel, "*i8 *fp32 *i8 *fp32 *bf16 i32 i32 i32", {**PRODUCT, "IS_INT4": True}),
    (rms_norm.rms_norm_kernel, "*fp32 *fp32 *fp32 i32 i32 fp32", {"BLOCK": 1024}),
    *(
        (
            weight_only_linear.weight_only_linear_kernel,
            f"*bf16 {codes} *fp32 *bf16 i32 i32 i32 i32",
            {**PRODUCT, "ROWS": rows, "IS_FP8": codes == "*u8", "IS_INT4": is_int4},
        )
        for codes, rows, is_int4 in (("*i8", 16, False), ("*i8", 64, True), ("*u8", 64, False))
    ),
]
for kv_format, cache in CACHES.items():
    VARIANTS += [
        (
            rotary_kv.rotary_kv_kernel,
            f"*bf16 *bf16 *bf16 *i64 {cache} {cache} *bf16 *bf16 fp32",
            {**HEADS, "R": 64, "PAIRS": 32, "REST": 64, "HAS_ROTARY": True, "HAS_NORM": True, "FORMAT": kv_format},
        ),
        (
            decode_attention.decode_part_kernel,
            f"*bf16 {cache} {cache} *i64 *i64 *fp32 *fp32 i32 i32 fp32 i32",
            {**TILES, "ROWS": 16, "TILE": 64, "NUM_SPLITS": 8, "FORMAT": kv_format},
        ),
        (
            prefill_attention.prefill_kernel,
            f"*bf16 {cache} {cache} *i64 *i64 *i64 *bf16 i32 i32 fp32 i32",
            {**TILES, "QUERY_TILE": 64, "KEY_TILE": 64, "FORMAT": kv_format},
        ),
    ]

# The engine's dtype is float32 unless another is asked for.
products = (
    weight_only_linear.weight_only_linear_kernel,
    decode_attention.decode_part_kernel,
    prefill_attention.prefill_kernel,
)
VARIANTS += [
    (kernel, types.replace("bf16", "fp32"), constants)
    for kernel, types, constants in VARIANTS
    if kernel in products and constants.get("FORMAT", "float") == "float"
]

modules = [
    importlib.import_module(f"{triton_lang.__name__}.{module.name}")
    for module in pkgutil.iter_modules(triton_lang.__path__)
]
launched = {name for module in modules for name in vars(module) if name.endswith("_kernel")}
missing = launched - {kernel.__name__ for kernel, _, _ in VARIANTS}
if missing:
    sys.exit(f"not in the list of what is compiled: {', '.join(sorted(missing))}")

for kernel, types, constants in VARIANTS:
    names = [name for name in kernel.arg_names if name not in constants]
    signature = dict(zip(names, types.split(), strict=True)) | dict.fromkeys(constants, "constexpr")
    source = ASTSource(kernel, signature, constants)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32))
    assert compiled.asm["cubin"]
    print(kernel.__name__)
