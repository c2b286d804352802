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
    gemv,
    prefill_attention,
    quantized_linear,
    rms_norm,
    rotary_kv,
    swiglu,
    unpack_weight,
)

HEADS = {"H": 32, "G": 8, "D": 128}
TILES = {**HEADS, "D_PADDED": 128, "BLOCK_SIZE": 16}
EPILOGUE = {"HAS_NORM": True, "HAS_BIAS": True, "HAS_RESIDUAL": True, "IS_GATED": True}
PRODUCT = {"HAS_BIAS": True, "HAS_RESIDUAL": True, "GROUP": 64, "STEP": 4, "ROWS": 16, "COLUMNS": 32}
WEIGHTS = (("int8", "*i8", False), ("int4", "*i8", False), ("fp8", "*u8", False))

CACHES = {"float": "*bf16", "int8": "*i8", "fp8": "*u8"}

# (kernel, types of its run-time arguments in order, its constants)
VARIANTS = [
    (rms_norm.rms_norm_kernel, "*bf16 *bf16 *bf16 i32 i32 fp32", {"BLOCK": 4096}),
    (swiglu.swiglu_kernel, "*bf16 *bf16 i32", {"BLOCK": 1024}),
    (
        decode_attention.decode_combine_kernel,
        "*fp32 *fp32 *bf16 i32",
        {"H": 32, "D": 128, "D_PADDED": 128, "SPLITS_PADDED": 8},
    ),
    (rms_norm.rms_norm_kernel, "*fp32 *fp32 *fp32 i32 i32 fp32", {"BLOCK": 1024}),
    (
        quantized_linear.add_parts_kernel,
        "*fp32 *bf16 *bf16 *bf16 i32 i32 i32",
        {"HAS_BIAS": True, "HAS_RESIDUAL": True, "IS_GATED": True, "COLUMNS": 512},
    ),
    *(
        (
            gemv.gemv_kernel,
            f"*bf16 *bf16 {codes} *bf16 *bf16 *bf16 *bf16 i32 i32 i32 i32 fp32",
            {**EPILOGUE, "FORMAT": weights, "ROUNDS": rounds, "GROUP": 64, "GROUPS": 16, "COLUMNS": 4},
        )
        for weights, codes, rounds in (
            ("float", "*bf16", False),
            *WEIGHTS,
            ("int8", "*i8", True),
            ("int4", "*i8", True),
        )
    ),
    *(
        (
            unpack_weight.unpack_weight_kernel,
            f"{codes} *bf16 *bf16 i32 i32 i32",
            {"FORMAT": weights, "GROUP": 64, "GROUPS": 16},
        )
        for weights, codes, _ in WEIGHTS
    ),
    (
        quantized_linear.round_rows_kernel,
        "*bf16 *bf16 *i8 *fp32 i32 i32 i32 fp32",
        {"HAS_NORM": True, "GROUP": 64, "GROUPS": 64},
    ),
    *(
        (
            quantized_linear.quantized_linear_kernel,
            f"{x} *fp32 {codes} *bf16 *bf16 *bf16 *bf16 i32 i32 i32 i32 i32",
            {**PRODUCT, "FORMAT": weights},
        )
        for x, weights, codes in (
            ("*i8", "int8", "*i8"),
            ("*i8", "int4", "*i8"),
            ("*bf16", "int8", "*i8"),
            ("*bf16", "int4", "*i8"),
            ("*bf16", "fp8", "*u8"),
        )
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
            f"*bf16 {cache} {cache} *i64 *i64 *fp32 *fp32 i32 i32 fp32 i32 i32",
            {**TILES, "ROWS": 16, "TILE": 64, "IS_WHOLE": False, "FORMAT": kv_format},
        ),
        (
            prefill_attention.prefill_kernel,
            f"*bf16 {cache} {cache} *i64 *i64 *i64 *bf16 i32 i32 fp32 i32",
            {**TILES, "QUERY_TILE": 64, "KEY_TILE": 64, "HAS_WINDOW": False, "FORMAT": kv_format},
        ),
    ]

# The engine's dtype is float32 unless another is asked for.
products = (
    quantized_linear.quantized_linear_kernel,
    gemv.gemv_kernel,
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
