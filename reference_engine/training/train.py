"""The bundled pair from nothing: `python -m llmbench.reference_engine.training --out FOLDER`.

One tokenizer; a target, trained on the standard library's source in cycles of the learning rate; a draft, trained on
the text in one cycle and to say what the target says in the next. Seeds, numbers of steps and the order of sums are
fixed: the same Python and the same torch make the same weights again.

A run that was interrupted goes on where it stopped, when it is started again with the same folder, and makes the same
weights as one that was not.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from llmbench.reference_engine.config import QuantizationName
from llmbench.reference_engine.models.checkpoint_layout import (
    BOS,
    EOS,
    LlamaShape,
    train_tokenizer,
    write_description,
)
from llmbench.reference_engine.quantization.group_wise import dequantize, quantize
from llmbench.reference_engine.training import corpus
from llmbench.reference_engine.training.model import TrainableLlama
from llmbench.reference_engine.training.muon import Muon

logger = logging.getLogger(__name__)

VOCAB_SIZE = 2048
CONTEXT = 512
BATCH_SIZE = 4
SEED = 0
_SAVE_EVERY = 20
_NUM_HELD_OUT_WINDOWS = 64


class Cycle(NamedTuple):
    """Steps while the learning rate rises to its peak, stays there, and falls to nothing.

    It rises over the first `rise` steps and falls over the last `fall` of all, a share. `taught`: the model learns what
    its teacher expects of the text, and not the text.

    The optimizers begin anew with each cycle: warm restarts, arXiv:1608.03983, with the shape of arXiv:2405.18392.
    """

    num_steps: int
    peak: float
    fall: float
    rise: int = 40
    taught: bool = False

    def rate(self, step: int) -> float:
        left = (self.num_steps - step) / self.num_steps
        return self.peak * min((step + 1) / self.rise, 1.0, left / self.fall)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One model: its shape and how long it learns. `teacher` is an earlier recipe, which `continues` takes up.

    `rounded_to`: the weights are rounded in each forward pass as they will be when they are used, and learn to bear it.
    """

    name: str
    shape: LlamaShape
    cycles: tuple[Cycle, ...]
    teacher: str | None = None
    continues: bool = False
    rounded_to: QuantizationName | None = None

    @property
    def num_steps(self) -> int:
        return sum(cycle.num_steps for cycle in self.cycles)


def _shape(hidden_size: int, intermediate_size: int, num_layers: int, num_heads: int) -> LlamaShape:
    return LlamaShape(
        VOCAB_SIZE, hidden_size, intermediate_size, num_layers, num_heads, 1, CONTEXT, tie_word_embeddings=True
    )


TARGET = Recipe(
    name="python-target",
    shape=_shape(192, 512, 5, 3),
    cycles=(Cycle(600, peak=4e-3, fall=1.0), Cycle(520, peak=3e-3, fall=0.115)),
)
DRAFT = Recipe(
    name="python-draft",
    shape=_shape(128, 320, 1, 2),
    cycles=(Cycle(600, peak=6e-3, fall=1.0), Cycle(80, peak=3e-3, fall=0.8, rise=8, taught=True)),
    teacher="python-target",
)


# Quantisation-aware training: the target once more, to be run with quantization = int4. Not shipped.
TARGET_INT4 = Recipe(
    name="python-target-int4",
    shape=TARGET.shape,
    cycles=(Cycle(80, peak=5e-4, fall=0.8, rise=10, taught=True),),
    teacher="python-target",
    continues=True,
    rounded_to="int4",
)


class Learned(NamedTuple):
    """`held_out_loss` is in nats per token, over windows that no step has seen; of the weights as they are stored."""

    recipe: Recipe
    num_parameters: int
    num_tokens: int
    held_out_loss: float


def train_pair(out: Path, recipes: Sequence[Recipe] = (TARGET, DRAFT)) -> list[Learned]:
    """Write a checkpoint folder per recipe under `out`. One that is there in full is taken as it is."""
    train_texts, held_out_texts = corpus.texts()
    tokenizer = train_tokenizer(train_texts, VOCAB_SIZE)
    train_ids, held_out_ids = _encode(tokenizer, train_texts), _encode(tokenizer, held_out_texts)
    logger.info("%d tokens to train on, %d held out", len(train_ids), len(held_out_ids))
    bos = tokenizer.token_to_id(BOS)
    assert bos is not None
    learned = []
    models: dict[str, TrainableLlama] = {}
    for recipe in recipes:
        folder = out / recipe.name
        folder.mkdir(parents=True, exist_ok=True)
        write_description(folder, recipe.shape, tokenizer)
        teacher = None if recipe.teacher is None else models[recipe.teacher]
        model = _Training(recipe, folder, train_ids, bos, teacher).run()
        models[recipe.name] = model
        held_out_loss = evaluate(model, held_out_ids, bos)
        logger.info("%s held-out loss %.3f", recipe.name, held_out_loss)
        num_parameters = sum(weight.numel() for weight in model.parameters())
        learned.append(Learned(recipe, num_parameters, recipe.num_steps * BATCH_SIZE * CONTEXT, held_out_loss))
    return learned


def _encode(tokenizer: Tokenizer, texts: Sequence[str]) -> torch.Tensor:
    eos_token_id = tokenizer.token_to_id(EOS)
    assert eos_token_id is not None
    ids: list[int] = []
    for encoding in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False):
        ids += encoding.ids
        ids.append(eos_token_id)
    return torch.tensor(ids)


class _Training:
    """One model's way through its recipe, with all that is needed to go on after an interruption."""

    def __init__(
        self, recipe: Recipe, folder: Path, train_ids: torch.Tensor, bos: int, teacher: TrainableLlama | None
    ) -> None:
        self.recipe, self.train_ids, self.bos, self.teacher = recipe, train_ids, bos, teacher
        self.weights = folder / "model.safetensors"
        self.progress = folder / "training.pt"
        torch.manual_seed(SEED)
        self.draw = torch.Generator().manual_seed(SEED)
        self.model = TrainableLlama(recipe.shape)
        if recipe.continues:
            assert teacher is not None
            self.model.load_state_dict(teacher.state_dict())

    def run(self) -> TrainableLlama:
        """The model with the weights that are stored, rounded to bfloat16."""
        if self.weights.exists() and not self.progress.exists():
            self._load_weights()
            return self.model
        cycle, step, state = self._resume()
        for number in range(cycle, len(self.recipe.cycles)):
            self._run_cycle(number, step, state)
            step, state = 0, None
        self.progress.unlink(missing_ok=True)
        return self.model

    def _resume(self) -> tuple[int, int, dict[str, Any] | None]:
        if not self.progress.exists():
            return 0, 0, None
        saved = torch.load(self.progress, weights_only=True)
        self.draw.set_state(saved["draw"])
        if saved["model"] is None:
            self._load_weights()
        else:
            self.model.load_state_dict(saved["model"])
        return saved["cycle"], saved["step"], saved["optimizers"]

    def _load_weights(self) -> None:
        _read_weights(self.model, self.weights)

    def _run_cycle(self, number: int, first_step: int, state: dict[str, Any] | None) -> None:
        cycle = self.recipe.cycles[number]
        muon, adamw = _optimizers(self.model)
        if state is not None:
            muon.momenta = state["muon"]
            adamw.load_state_dict(state["adamw"])
        for step in range(first_step, cycle.num_steps):
            if step % _SAVE_EVERY == 0:
                self._save(number, step, self.model.state_dict(), {"muon": muon.momenta, "adamw": adamw.state_dict()})
            rate = cycle.rate(step)
            loss = self._loss(_windows(self.train_ids, BATCH_SIZE, self.bos, self.draw), cycle.taught)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            muon.step(rate)
            for group in adamw.param_groups:
                group["lr"] = rate
            adamw.step()
            adamw.zero_grad()
            if step % _SAVE_EVERY == 0 or step == cycle.num_steps - 1:
                logger.info(
                    "%s cycle %d step %d/%d loss %.3f, %.0f CPU s",
                    self.recipe.name,
                    number,
                    step,
                    cycle.num_steps,
                    loss.item(),
                    time.process_time(),
                )
        # Between cycles nothing is kept but the weights as they are stored.
        save_file(self.model.checkpoint(), self.weights, metadata={"format": "pt"})
        self._load_weights()
        self._save(number + 1, 0, None, None)

    def _save(self, cycle: int, step: int, model: dict[str, Any] | None, optimizers: dict[str, Any] | None) -> None:
        content = {
            "cycle": cycle,
            "step": step,
            "model": model,
            "optimizers": optimizers,
            "draw": self.draw.get_state(),
        }
        beside = self.progress.with_suffix(".new")
        torch.save(content, beside)
        beside.replace(self.progress)

    def _loss(self, windows: torch.Tensor, taught: bool) -> torch.Tensor:
        """Cross entropy in nats per token with the text, or with what the teacher expects of it."""
        rounded = self.recipe.rounded_to
        logits = (
            self.model(windows[:, :-1]) if rounded is None else rounded_logits(self.model, windows[:, :-1], rounded)
        )
        if not taught:
            return _cross_entropy(logits, windows[:, 1:])
        assert self.teacher is not None
        with torch.no_grad():
            expected = self.teacher(windows[:, :-1]).softmax(dim=-1)
        return F.cross_entropy(logits.flatten(0, 1), expected.flatten(0, 1))


def load_checkpoint(folder: Path, shape: LlamaShape) -> TrainableLlama:
    """What `train_pair` wrote, to be trained further or looked at."""
    model = TrainableLlama(shape)
    _read_weights(model, folder / "model.safetensors")
    return model


def _read_weights(model: TrainableLlama, file: Path) -> None:
    state = load_file(file)
    model.load_state_dict({name: state[f"model.{name}"].float() for name in model.state_dict()})


def rounded_logits(model: TrainableLlama, token_ids: torch.Tensor, scheme: QuantizationName) -> torch.Tensor:
    """Logits with the linear layers' weights quantised, head included; gradients pass as if they were not.

    Source of the straight-through estimator: Bengio, Léonard, Courville, arXiv:1308.3432.
    """

    def rounded(weight: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            error = dequantize(quantize(weight, scheme), weight.shape[1]) - weight
        return weight + error

    weights = {name: rounded(weight) for name, weight in model.named_parameters() if "_proj." in name}
    head = rounded(model.embed_tokens.weight)
    return torch.func.functional_call(model, weights, (token_ids, head))  # type: ignore[no-any-return]


def evaluate(model: TrainableLlama, held_out_ids: torch.Tensor, bos: int) -> float:
    """Mean loss in nats per token over windows of held-out text; the same windows at every call."""
    draw = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        parts = torch.split(_windows(held_out_ids, _NUM_HELD_OUT_WINDOWS, bos, draw), BATCH_SIZE)
        return sum(_cross_entropy(model(part[:, :-1]), part[:, 1:]).item() for part in parts) / len(parts)


def _cross_entropy(logits: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits.flatten(0, 1), token_ids.flatten())


def _windows(ids: torch.Tensor, number: int, bos: int, draw: torch.Generator) -> torch.Tensor:
    """[number, CONTEXT + 1] token ids from random places; BOS comes first, as it does before every prompt."""
    starts = torch.randint(len(ids) - CONTEXT, (number, 1), generator=draw)
    windows = ids[starts + torch.arange(CONTEXT)]
    return torch.cat((torch.full((number, 1), bos), windows), dim=1)


def _optimizers(model: TrainableLlama) -> tuple[Muon, torch.optim.AdamW]:
    """Muon for the layers' matrices, which learns from fewer tokens, and AdamW for embedding and norms."""
    matrices = [weight for weight in model.layers.parameters() if weight.dim() == 2]
    chosen = {id(weight) for weight in matrices}
    others = [weight for weight in model.parameters() if id(weight) not in chosen]
    return Muon(matrices), torch.optim.AdamW(others, betas=(0.9, 0.95), weight_decay=0.0)
