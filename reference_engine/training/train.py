"""The bundled pair from nothing: `python -m llmbench.reference_engine.training --out FOLDER`.

One tokenizer, a target and a draft, trained one after the other on the standard library's source. Seeds and numbers of
steps are fixed; so the same Python and the same torch on the same machine make the same weights again.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer

from llmbench.reference_engine.models.checkpoint_layout import (
    BOS,
    EOS,
    LlamaShape,
    train_tokenizer,
    write_description,
)
from llmbench.reference_engine.training import corpus
from llmbench.reference_engine.training.model import TrainableLlama

logger = logging.getLogger(__name__)

VOCAB_SIZE = 2048
CONTEXT = 512
BATCH_SIZE = 4
SEED = 0
_LOG_EVERY = 20
_NUM_HELD_OUT_WINDOWS = 64


class Recipe(NamedTuple):
    """One model: its shape and how long it learns. `learning_rate` is the peak."""

    name: str
    shape: LlamaShape
    num_steps: int
    learning_rate: float


def _shape(hidden_size: int, intermediate_size: int, num_layers: int, num_heads: int) -> LlamaShape:
    return LlamaShape(
        VOCAB_SIZE, hidden_size, intermediate_size, num_layers, num_heads, 1, CONTEXT, tie_word_embeddings=True
    )


TARGET = Recipe("python-target", _shape(192, 512, 5, 3), num_steps=600, learning_rate=4e-3)
DRAFT = Recipe("python-draft", _shape(128, 320, 1, 2), num_steps=600, learning_rate=6e-3)


class Learned(NamedTuple):
    """`held_out_loss` is in nats per token, over windows that no step has seen."""

    recipe: Recipe
    num_parameters: int
    num_tokens: int
    held_out_loss: float
    wall_s: float


def train_pair(out: Path, recipes: Sequence[Recipe] = (TARGET, DRAFT)) -> list[Learned]:
    """Write a checkpoint folder per recipe under `out`."""
    train_texts, held_out_texts = corpus.texts()
    tokenizer = train_tokenizer(train_texts, VOCAB_SIZE)
    train_ids, held_out_ids = _encode(tokenizer, train_texts), _encode(tokenizer, held_out_texts)
    logger.info("%d tokens to train on, %d held out", len(train_ids), len(held_out_ids))
    bos = tokenizer.token_to_id(BOS)
    assert bos is not None
    learned = []
    for recipe in recipes:
        folder = out / recipe.name
        folder.mkdir(parents=True, exist_ok=True)
        model, told = _train(recipe, train_ids, held_out_ids, bos)
        write_description(folder, recipe.shape, tokenizer)
        save_file(model.checkpoint(), folder / "model.safetensors", metadata={"format": "pt"})
        learned.append(told)
    return learned


def _encode(tokenizer: Tokenizer, texts: Sequence[str]) -> torch.Tensor:
    eos_token_id = tokenizer.token_to_id(EOS)
    assert eos_token_id is not None
    ids: list[int] = []
    for encoding in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False):
        ids += encoding.ids
        ids.append(eos_token_id)
    return torch.tensor(ids)


def _train(
    recipe: Recipe, train_ids: torch.Tensor, held_out_ids: torch.Tensor, bos: int
) -> tuple[TrainableLlama, Learned]:
    torch.manual_seed(SEED)
    draw = torch.Generator().manual_seed(SEED)
    model = TrainableLlama(recipe.shape)
    optimizers = _optimizers(model, recipe.learning_rate)
    begun_ns = time.perf_counter_ns()
    for step in range(recipe.num_steps):
        rate = recipe.learning_rate * _schedule(step, recipe.num_steps)
        loss = _loss(model, _windows(train_ids, BATCH_SIZE, bos, draw))
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad()
        if step % _LOG_EVERY == 0 or step == recipe.num_steps - 1:
            wall_s = (time.perf_counter_ns() - begun_ns) / 1e9
            logger.info("%s step %d/%d loss %.3f %.0f s", recipe.name, step, recipe.num_steps, loss.item(), wall_s)
    wall_s = (time.perf_counter_ns() - begun_ns) / 1e9
    held_out_loss = evaluate(model, held_out_ids, bos)
    num_parameters = sum(weight.numel() for weight in model.parameters())
    num_tokens = recipe.num_steps * BATCH_SIZE * CONTEXT
    logger.info("%s held-out loss %.3f", recipe.name, held_out_loss)
    return model, Learned(recipe, num_parameters, num_tokens, held_out_loss, wall_s)


def evaluate(model: TrainableLlama, held_out_ids: torch.Tensor, bos: int) -> float:
    """Mean loss in nats per token over windows of held-out text; the same windows at every call."""
    draw = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        parts = torch.split(_windows(held_out_ids, _NUM_HELD_OUT_WINDOWS, bos, draw), BATCH_SIZE)
        return sum(_loss(model, part).item() for part in parts) / len(parts)


def _windows(ids: torch.Tensor, number: int, bos: int, draw: torch.Generator) -> torch.Tensor:
    """[number, CONTEXT + 1] token ids from random places; BOS comes first, as it does before every prompt."""
    starts = torch.randint(len(ids) - CONTEXT, (number, 1), generator=draw)
    windows = ids[starts + torch.arange(CONTEXT)]
    return torch.cat((torch.full((number, 1), bos), windows), dim=1)


def _loss(model: TrainableLlama, windows: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(windows[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1).float(), windows[:, 1:].flatten())


def _optimizers(model: TrainableLlama, learning_rate: float) -> tuple[torch.optim.Optimizer, ...]:
    """Muon for the layers' matrices, which learns from fewer tokens, and AdamW for embedding and norms.

    Source: K. Jordan, "Muon: an optimizer for hidden layers in neural networks", 2024.
    """
    matrices = [weight for weight in model.layers.parameters() if weight.dim() == 2]
    chosen = {id(weight) for weight in matrices}
    others = [weight for weight in model.parameters() if id(weight) not in chosen]
    muon = torch.optim.Muon(matrices, lr=learning_rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw")
    return muon, torch.optim.AdamW(others, lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.0)


def _schedule(step: int, num_steps: int) -> float:
    """Share of the peak learning rate: a short linear rise, then a cosine to a twentieth."""
    warmup = max(1, num_steps // 20)
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, num_steps - warmup)
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done))
