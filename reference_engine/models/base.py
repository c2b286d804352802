"""What a model family provides to the loader and to the runner."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import torch

from llmbench.reference_engine.config import QuantizationName
from llmbench.reference_engine.kernels.contract import Kernels
from llmbench.reference_engine.layers.linear import Linear, LinearPart
from llmbench.reference_engine.models.config import ModelConfig
from llmbench.reference_engine.step_batch import StepBatch


class CausalLM(Protocol):
    """A model whose weights are loaded."""

    config: ModelConfig
    dtype: torch.dtype
    head: Linear
    # What linears that the checkpoint stores as codes run as; None for a checkpoint without such.
    stored_quantization: QuantizationName | None

    def prepare(self, kernels: Kernels, quantization: QuantizationName | None) -> None:
        """Hand the loaded weights to the kernels that will compute with them; once, before the first step."""
        ...

    def __call__(self, batch: StepBatch) -> torch.Tensor:
        """Hidden states [T, hidden_size] before the final norm; modifies the batch's KV cache."""
        ...

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[n, hidden_size] to [n, vocab_size]; called for the rows that are sampled only."""
        ...

    def checkpoint_views(self) -> dict[str, torch.Tensor]:
        """Checkpoint tensor name to the memory it is loaded into; together these are all the weights."""
        ...

    def checkpoint_linears(self) -> dict[str, LinearPart]:
        """Every linear by its name in the checkpoint: those that may be stored as codes; a tied head is none."""
        ...

    @property
    def base_prefix(self) -> str:
        """What every name but the head's begins with; checkpoints of the bare model leave it out."""
        ...

    @property
    def tied_names(self) -> tuple[str, str]:
        """The embedding's and the head's names in a checkpoint: one tensor where config.json ties them."""
        ...

    def is_ignorable(self, name: str) -> bool:
        """True for a checkpoint tensor that may be there and is not needed."""
        ...


class Family(NamedTuple):
    """One architecture: how to read its config.json, and how to make the model with uninitialised weights."""

    read_config: Callable[[Mapping[str, Any]], ModelConfig]
    build: Callable[[ModelConfig, torch.dtype], CausalLM]
