"""Which implementation computes paged attention: one line per backend, imported when it is asked for."""

from __future__ import annotations

import importlib
from typing import Protocol, cast

import torch

from llmbench.reference_engine.errors import ConfigError


class AttentionKernels(Protocol):
    """Attention over keys and values that lie in blocks.

    H query heads, G key/value heads, H % G == 0, D head size. k_cache and v_cache: contiguous,
    [num_blocks, block_size, G, D]. A block table's entries beyond a sequence's last block may be any valid block id.
    """

    def write_kv(
        self,
        k: torch.Tensor,
        v: torch.Tensor,
        k_cache: torch.Tensor,
        v_cache: torch.Tensor,
        slots: torch.Tensor,
    ) -> None:
        """Modifies the caches: token i of k, v [T, G, D] goes to slot slots[i] = block id * block_size + offset."""
        ...

    def decode(
        self,
        q: torch.Tensor,
        k_cache: torch.Tensor,
        v_cache: torch.Tensor,
        block_tables: torch.Tensor,
        context_lens: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        """Attention of one new token per sequence over its cache; returns [N, H, D] in q's dtype.

        q [N, H, D]; block_tables [N, M] int64; context_lens [N] int64, the new token included, so at least 1.
        """
        ...

    def prefill(
        self,
        q: torch.Tensor,
        k_cache: torch.Tensor,
        v_cache: torch.Tensor,
        block_table: torch.Tensor,
        context_len: int,
        scale: float,
    ) -> torch.Tensor:
        """Causal attention of one sequence's chunk over its cache; returns [L, H, D] in q's dtype.

        q [L, H, D] are the last L of the context_len tokens whose keys and values block_table [M] int64 leads to.
        """
        ...


BACKENDS = {
    "torch": "llmbench.reference_engine.kernels.attention_torch",
}


def load(name: str) -> AttentionKernels:
    """The backend of that name. Raises ConfigError for an unknown one."""
    if name not in BACKENDS:
        raise ConfigError(f"kernels must be one of {', '.join(BACKENDS)}; {name!r} was given.")
    return cast(AttentionKernels, importlib.import_module(BACKENDS[name]))
