"""The decoder-only transformer around a family's layers: embedding, layers, final norm, head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch

from llmbench.reference_engine.config import QuantizationName
from llmbench.reference_engine.kernels.contract import Kernels
from llmbench.reference_engine.layers.attention import PagedAttention
from llmbench.reference_engine.layers.linear import Linear, LinearPart, weight_views
from llmbench.reference_engine.layers.norm import Norm
from llmbench.reference_engine.models.config import ModelConfig
from llmbench.reference_engine.step_batch import StepBatch


class Layer(Protocol):
    """Its two parts are called one after the other."""

    attention: PagedAttention

    @property
    def mlp(self) -> Callable[..., torch.Tensor]: ...

    def prepare(self, kernels: Kernels, quantization: QuantizationName | None) -> None: ...

    def __call__(self, x: torch.Tensor, batch: StepBatch) -> torch.Tensor: ...

    def linears(self, prefix: str) -> dict[str, LinearPart]: ...

    def views(self, prefix: str) -> dict[str, torch.Tensor]: ...


class Names(NamedTuple):
    """A family's names for its weights: `base` with its dot before all but the head's, the others without `.weight`.

    `ignorable` are endings of tensors that old checkpoints hold and that are computed here.
    """

    base: str
    embedding: str
    layers: str
    norm: str
    head: str
    ignorable: tuple[str, ...]


class Decoder:
    """See models/base.py for the contract of the methods."""

    names: Names

    def __init__(self, config: ModelConfig, dtype: torch.dtype, layers: Sequence[Layer], norm: Norm) -> None:
        self.config = config
        self.embedding = torch.empty(config.vocab_size, config.hidden_size, dtype=dtype)
        self.stored_quantization: QuantizationName | None = None
        self.dtype = dtype
        self.kernels: Kernels | None = None
        self.layers = layers
        self.norm = norm
        self.head = Linear(config.hidden_size, config.vocab_size, bias=False, dtype=dtype, norm=norm)
        if config.tie_word_embeddings:
            self.head.weight = self.embedding

    def prepare(self, kernels: Kernels, quantization: QuantizationName | None) -> None:
        self.kernels = kernels
        for layer in self.layers:
            layer.prepare(kernels, quantization)
        self.head.prepare(kernels, quantization)

    def embed(self, batch: StepBatch) -> torch.Tensor:
        """What the first layer sees, [T, hidden_size] in the activations' dtype."""
        assert self.kernels is not None
        return self.kernels.embedding(self.embedding, batch.token_ids)

    def __call__(self, batch: StepBatch) -> torch.Tensor:
        x = self.embed(batch)
        for layer in self.layers:
            x = layer(x, batch)
        return x

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.head(hidden)

    def checkpoint_views(self) -> dict[str, torch.Tensor]:
        names = self.names
        views = {f"{names.base}{names.embedding}.weight": self.embedding}
        for index, layer in enumerate(self.layers):
            views |= layer.views(f"{names.base}{names.layers}.{index}")
        views |= self.norm.views(f"{names.base}{names.norm}")
        if not self.config.tie_word_embeddings:
            views |= weight_views(self.head.whole(names.head))
        return views

    def checkpoint_linears(self) -> dict[str, LinearPart]:
        names = self.names
        linears: dict[str, LinearPart] = {}
        for index, layer in enumerate(self.layers):
            linears |= layer.linears(f"{names.base}{names.layers}.{index}")
        return linears if self.config.tie_word_embeddings else linears | self.head.whole(names.head)

    @property
    def base_prefix(self) -> str:
        return self.names.base

    @property
    def tied_names(self) -> tuple[str, str]:
        return f"{self.names.base}{self.names.embedding}.weight", f"{self.names.head}.weight"

    def is_ignorable(self, name: str) -> bool:
        # Some tools write the head beside tied embeddings: it is the embedding again, or loader.py does not tie them.
        tied_head = self.config.tie_word_embeddings and name == self.tied_names[1]
        return tied_head or name.endswith(self.names.ignorable)
