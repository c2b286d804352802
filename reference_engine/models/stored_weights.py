"""Checkpoints whose linear layers are quantised already: codes and scales out of the two common layouts.

compressed-tensors "pack-quantized" (W4A16, W8A16; llm-compressor's): NAME.weight_packed int32 [out, in / n], n codes of
4 or 8 bits per number along the inputs, the first in the lowest bits, offset by half their range; NAME.weight_scale
[out, groups]. GPTQ's (`quantize_config`, AutoGPTQ): NAME.qweight int32 [in / n, out], NAME.scales [groups, out],
NAME.qzeros [groups, out / n] and NAME.g_idx [in].

Taken are symmetric codes in groups of a multiple of 64 inputs, or one group per output, in the order of the inputs.
Which linears are codes is told by their tensors' names, not by config.json's `ignore`: the others stay in floats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from llmbench.reference_engine.config import QuantizationName
from llmbench.reference_engine.errors import CheckpointError, ConfigError
from llmbench.reference_engine.models.raw_values import is_integer, read_object
from llmbench.reference_engine.quantization.group_wise import GROUP_SIZE, QuantizedWeight

CONFIG_KEY = "quantization_config"
# Both layouts are of weights alone: inputs stay as they are.
_SCHEMES: dict[int, QuantizationName] = {4: "int4-weight-only", 8: "int8-weight-only"}
# Codes that are the same in another scheme, which rounds the inputs too.
ALSO_RUN_AS: dict[QuantizationName, tuple[QuantizationName, ...]] = {"int4-weight-only": ("int4",)}
_BITS: dict[QuantizationName, int] = {"int4": 4, "int4-weight-only": 4, "int8": 8, "int8-weight-only": 8}
_SUFFIXES = {
    "compressed-tensors": ("weight_packed", "weight_scale", "weight_shape"),
    "gptq": ("qweight", "scales", "qzeros", "g_idx"),
}
_OPTIONAL = ("weight_shape", "g_idx")


class StoredFormat(NamedTuple):
    """`group_size` None: one scale per output. `zero_offset`: what qzeros are short of."""

    method: str
    bits: int
    group_size: int | None
    zero_offset: int = 0

    @property
    def scheme(self) -> QuantizationName:
        return _SCHEMES[self.bits]

    def split(self, name: str) -> tuple[str, str] | None:
        """A stored tensor's linear and which part of it this is; None for a tensor that is not quantised."""
        linear, _, part = name.rpartition(".")
        return (linear, part) if part in _SUFFIXES[self.method] else None

    def unpack(self, name: str, parts: Mapping[str, torch.Tensor]) -> QuantizedWeight:
        """Codes and scales, these rounded to bfloat16. Raises CheckpointError for what is absent or not taken."""
        absent = [part for part in _SUFFIXES[self.method] if part not in parts and part not in _OPTIONAL]
        if absent:
            raise CheckpointError(f"{name} lacks {', '.join(absent)}.")
        if self.method == "gptq":
            self._check_gptq(name, parts)
            packed, scales = parts["qweight"].T, parts["scales"].T
        else:
            packed, scales = parts["weight_packed"], parts["weight_scale"]
        codes = _unpack_bits(packed.contiguous(), self.bits)
        num_groups = codes.shape[1] // GROUP_SIZE
        if codes.shape[1] % GROUP_SIZE or scales.dim() != 2 or num_groups % scales.shape[1]:
            raise CheckpointError(
                f"{name} has {codes.shape[1]} inputs and scales {list(scales.shape)}; groups of a multiple of "
                f"{GROUP_SIZE} inputs are supported."
            )
        spread = scales.bfloat16().repeat_interleave(num_groups // scales.shape[1], dim=1)
        return QuantizedWeight(codes, spread, self.scheme)

    def _check_gptq(self, name: str, parts: Mapping[str, torch.Tensor]) -> None:
        zeros = _unpack_bits(parts["qzeros"].contiguous(), self.bits) + self.zero_offset
        if bool((zeros != 0).any()):
            raise CheckpointError(f"{name} has zero points that are not the middle; symmetric GPTQ is supported.")
        order = parts.get("g_idx")
        if order is not None and bool((order.diff() < 0).any()):
            raise CheckpointError(f"{name} has its inputs reordered (desc_act); GPTQ without it is supported.")


def read_format(raw: Mapping[str, Any], file: object) -> StoredFormat | None:
    """How config.json says that the weights are stored. Raises CheckpointError, by name, for what is not supported."""
    given = read_object(raw, CONFIG_KEY, file)
    if not given:
        return None
    method = given.get("quant_method")
    if method == "gptq":
        bits, group_size, is_symmetric = given.get("bits"), given.get("group_size"), given.get("sym", True)
        if given.get("desc_act"):
            raise CheckpointError(f"{file}: GPTQ with desc_act is not supported; GPTQ without it is.")
        # The first version of the format stores zero points less one.
        offset = 0 if given.get("checkpoint_format") == "gptq_v2" else 1
    elif method == "compressed-tensors":
        if given.get("format") != "pack-quantized":
            raise CheckpointError(
                f"{file}: compressed-tensors format {given.get('format')!r} is not supported; pack-quantized is."
            )
        weights = _only_weights(given.get("config_groups"), file)
        bits, group_size, is_symmetric = weights.get("num_bits"), weights.get("group_size"), weights.get("symmetric")
        if weights.get("type") != "int" or weights.get("actorder") not in (None, "static", "weight"):
            raise CheckpointError(f"{file}: weights of type int in the order of their inputs are supported.")
        offset = 0
    else:
        raise CheckpointError(f"{file}: quant_method {method!r} is not supported; {' and '.join(_SUFFIXES)} are.")
    if not is_integer(bits) or bits not in _SCHEMES or not is_symmetric:
        kind = "symmetric" if is_symmetric else "asymmetric"
        raise CheckpointError(f"{file}: {kind} weights of {bits} bits are not supported; symmetric ones of 4 or 8 are.")
    if group_size in (None, -1):
        return StoredFormat(method, bits, None, offset)
    if not is_integer(group_size) or group_size < 1 or group_size % GROUP_SIZE:
        raise CheckpointError(f"{file}: group_size {group_size!r} is not supported; multiples of {GROUP_SIZE} are.")
    return StoredFormat(method, bits, group_size, offset)


def _only_weights(groups: object, file: object) -> Mapping[str, Any]:
    """The settings of the weights in compressed-tensors' one config group."""
    found = list(groups.values()) if isinstance(groups, Mapping) else []
    weights = found[0].get("weights") if len(found) == 1 and isinstance(found[0], Mapping) else None
    if not isinstance(weights, Mapping):
        raise CheckpointError(f"{file}: one config group of weights alone is supported; {len(found)} are given.")
    if found[0].get("input_activations"):
        raise CheckpointError(f"{file}: a config group has input_activations; groups of weights alone are supported.")
    return weights


def check_asked(
    stored: QuantizationName | None, asked: QuantizationName | None, whose: str = "The checkpoint's"
) -> None:
    """Raises ConfigError where weights that are `stored` in a scheme, None for floats, cannot run as `asked`."""
    if stored is not None and asked not in (None, stored, *ALSO_RUN_AS.get(stored, ())):
        raise ConfigError(f"{whose} weights are {stored} already; quantization cannot be {asked}.")


def describe(scheme: QuantizationName, ignore: Sequence[str] = ("lm_head",)) -> dict[str, Any]:
    """quantization_config of what `pack_codes` makes: of the weights alone, whatever the scheme does with inputs.

    ignore: linears that stay in floats.
    """
    weights = {"num_bits": _BITS[scheme], "type": "int", "symmetric": True}
    weights |= {"strategy": "group", "group_size": GROUP_SIZE}
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
        "ignore": list(ignore),
    }


def pack_codes(name: str, weight: QuantizedWeight) -> dict[str, torch.Tensor]:
    """A linear's tensors in compressed-tensors' layout, by their names."""
    bits = _BITS[weight.scheme]
    per_number = 32 // bits
    codes = (weight.codes.to(torch.int64) + (1 << (bits - 1))).view(weight.codes.shape[0], -1, per_number)
    packed = (codes << (torch.arange(per_number) * bits)).sum(dim=-1)
    packed = torch.where(packed >= 2**31, packed - 2**32, packed).to(torch.int32)
    return {
        f"{name}.weight_packed": packed,
        f"{name}.weight_scale": weight.scales,
        f"{name}.weight_shape": torch.tensor(weight.codes.shape),
    }


def _unpack_bits(packed: torch.Tensor, bits: int) -> torch.Tensor:
    """int32 [rows, n] to the codes int8 [rows, n * 32 / bits], the offset taken off."""
    shifts = torch.arange(32 // bits, device=packed.device) * bits
    codes = (packed.to(torch.int64).unsqueeze(-1) >> shifts) & ((1 << bits) - 1)
    return (codes - (1 << (bits - 1))).to(torch.int8).flatten(1)
