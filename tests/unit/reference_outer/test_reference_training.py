"""The bundled pair and how it is made: in seconds, on a few texts in place of the standard library."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from llmbench.reference_engine.config import EngineConfig
from llmbench.reference_engine.engine import Engine
from llmbench.reference_engine.errors import ConfigError
from llmbench.reference_engine.models.bundled import NAMES, PREFIX, bundled_folder
from llmbench.reference_engine.models.checkpoint_layout import LlamaShape
from llmbench.reference_engine.models.synthetic_text import lines
from llmbench.reference_engine.quantization.group_wise import dequantize, quantize
from llmbench.reference_engine.sampling import SamplingParams
from llmbench.reference_engine.tokenizer import Tokenizer
from llmbench.reference_engine.training import corpus, train
from llmbench.reference_engine.training.card import write_card
from llmbench.reference_engine.training.model import TrainableLlama
from llmbench.reference_engine.training.muon import orthogonalise

CODE = 'class Reader:\n    """Reads a file."""\n\n    def __init__(self, path):\n        self.path = path\n\n    def '


@pytest.fixture
def small_recipe(monkeypatch: pytest.MonkeyPatch) -> train.Recipe:
    monkeypatch.setattr(corpus, "texts", lambda: (lines(400, 100, seed=1), lines(100, 100, seed=2)))
    monkeypatch.setattr(train, "VOCAB_SIZE", 512)
    monkeypatch.setattr(train, "CONTEXT", 32)
    shape = LlamaShape(512, 32, 64, 2, 2, 1, 32, tie_word_embeddings=True)
    return train.Recipe(name="small", shape=shape, cycles=(train.Cycle(12, 5e-3, 0.5, 2), train.Cycle(4, 2e-3, 0.5, 2)))


def test_training_learns_and_repeats_itself(tmp_path: Path, small_recipe: train.Recipe) -> None:
    (first,) = train.train_pair(tmp_path / "one", [small_recipe])
    (second,) = train.train_pair(tmp_path / "two", [small_recipe])
    assert first.held_out_loss < math.log(512)
    assert first.held_out_loss == second.held_out_loss
    for file in (tmp_path / "one" / "small").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / "small" / file.name).read_bytes(), file.name
    write_card(tmp_path / "card.md", [first], num_threads=1)
    assert f"| {first.held_out_loss:.3f} |" in (tmp_path / "card.md").read_text()


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("stop_at", [5, 12, 14, 18])
def test_interrupted_training_goes_on_to_the_same_weights(
    tmp_path: Path, small_recipe: train.Recipe, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    """In either cycle of the first model, and in the second, which learns from it."""
    shape = LlamaShape(512, 32, 64, 1, 2, 1, 32, tie_word_embeddings=True)
    draft = train.Recipe(
        name="draft", shape=shape, cycles=(train.Cycle(6, 5e-3, 0.5, 2, taught=True),), teacher="small"
    )
    monkeypatch.setattr(train, "_SAVE_EVERY", 3)
    learned = train.train_pair(tmp_path / "whole", [small_recipe, draft])
    count, loss = 0, train._Training._loss

    def stop(training: train._Training, windows: torch.Tensor, taught: bool) -> torch.Tensor:
        nonlocal count
        count += 1
        if count == stop_at + 1:
            raise Interrupted
        return loss(training, windows, taught)

    monkeypatch.setattr(train._Training, "_loss", stop)
    with pytest.raises(Interrupted):
        train.train_pair(tmp_path / "parts", [small_recipe, draft])
    assert train.train_pair(tmp_path / "parts", [small_recipe, draft]) == learned
    for file in ("small/model.safetensors", "draft/model.safetensors"):
        assert (tmp_path / "parts" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_a_draft_learns_what_its_teacher_says(tmp_path: Path, small_recipe: train.Recipe) -> None:
    shape = LlamaShape(512, 32, 64, 1, 2, 1, 32, tie_word_embeddings=True)
    train.train_pair(tmp_path, [small_recipe])
    agreements = []
    for steps in (1, 60):
        draft = train.Recipe(
            name=f"{steps}", shape=shape, cycles=(train.Cycle(steps, 5e-3, 0.5, 2, taught=True),), teacher="small"
        )
        train.train_pair(tmp_path, [small_recipe, draft])
        models = [train.load_checkpoint(tmp_path / recipe.name, recipe.shape) for recipe in (small_recipe, draft)]
        ids = torch.randint(512, (8, 32), generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            choices = [model(ids).argmax(-1) for model in models]
        agreements.append(float((choices[0] == choices[1]).float().mean()))
    assert agreements[1] > agreements[0]


def test_rounded_weights_speak_and_unrounded_ones_learn() -> None:
    torch.manual_seed(3)
    shape = LlamaShape(512, 64, 128, 2, 2, 1, 32, tie_word_embeddings=True)
    model, rounded = TrainableLlama(shape), TrainableLlama(shape)
    state = {
        name: dequantize(quantize(weight, "int4"), weight.shape[1]) if "_proj." in name else weight
        for name, weight in model.state_dict().items()
    }
    rounded.load_state_dict(state)
    ids = torch.randint(512, (2, 16))
    head = dequantize(quantize(model.embed_tokens.weight.detach(), "int4"), 64)
    logits = train.rounded_logits(model, ids, "int4")
    torch.testing.assert_close(logits, rounded(ids, head), atol=1e-6, rtol=1e-6)
    F.cross_entropy(logits.flatten(0, 1), ids.flatten()).backward()
    assert all(weight.grad is not None and bool(weight.grad.any()) for weight in model.parameters())


def test_muon_moves_all_singular_values_close_to_one() -> None:
    for shape in ((3, 16, 40), (2, 40, 16), (1, 8, 8)):
        matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        values = torch.linalg.svdvals(orthogonalise(matrices))
        assert 0.5 < float(values.min()) <= float(values.max()) < 1.4
        # A direction stays what it was: the same singular vectors.
        u, _, v = torch.linalg.svd(matrices, full_matrices=False)
        assert ((u @ v) * orthogonalise(matrices)).sum() > 0.9 * ((u @ v) ** 2).sum() * 0.9


def test_what_was_trained_is_what_transformers_reads(tmp_path: Path, small_recipe: train.Recipe) -> None:
    pytest.importorskip("transformers")
    from transformers import AutoModelForCausalLM

    train.train_pair(tmp_path, [small_recipe])
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "small", dtype=torch.float32)
    ours = TrainableLlama(small_recipe.shape)
    state = theirs.state_dict()
    ours.load_state_dict({name: state[f"model.{name}"] for name in ours.state_dict()})
    token_ids = torch.randint(512, (2, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert (ours(token_ids) - theirs(token_ids).logits).abs().max() < 1e-4


def test_corpus_is_the_standard_library_without_its_tests() -> None:
    names = {path.name for path in corpus.files()}
    assert {"argparse.py", "dataclasses.py"} <= names
    assert not any("test" in path.parts for path in corpus.files())
    held_in, held_out = corpus.texts()
    assert 0.02 < len(held_out) / (len(held_in) + len(held_out)) < 0.1


def test_bundled_pair_is_small_and_shares_its_tokenizer() -> None:
    folders = [bundled_folder(PREFIX + name) for name in NAMES]
    size = sum(path.stat().st_size for folder in folders for path in folder.iterdir())
    assert size <= 20e6
    target, draft = ((folder / "tokenizer.json").read_bytes() for folder in folders)
    assert target == draft
    with pytest.raises(ConfigError, match="there are bundled:python-target, bundled:python-draft"):
        bundled_folder("bundled:python")


def test_bundled_target_knows_python_better_than_chance() -> None:
    folder = bundled_folder("bundled:python-target")
    tokenizer = Tokenizer(folder)
    assert mean_nats(folder, tokenizer.encode(CODE)) < 5 < math.log(2048)


@pytest.mark.parametrize("source", ["ngram", "draft"])
def test_speculation_with_the_pair_writes_the_same_text(source: str) -> None:
    folder = bundled_folder("bundled:python-target")
    speculative = "ngram" if source == "ngram" else bundled_folder("bundled:python-draft")
    prompt = Tokenizer(folder).encode(CODE)

    def answer(**settings: object) -> tuple[list[int], Engine]:
        engine = Engine(EngineConfig(model_path=folder, kernels="torch", num_threads=1, **settings))
        engine.add_request("a", prompt, SamplingParams(max_tokens=60, temperature=0, ignore_eos=True))
        token_ids: list[int] = []
        while engine.has_work():
            for output in engine.step():
                token_ids += output.new_token_ids
        return token_ids, engine

    plain, _ = answer()
    drafted, engine = answer(speculative=speculative)
    assert drafted == plain
    assert engine.stats().num_accepted_tokens > 0


def mean_nats(folder: Path, token_ids: list[int]) -> float:
    pytest.importorskip("transformers")
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.tensor([token_ids])
    with torch.no_grad():
        return float(model(ids, labels=ids).loss)
