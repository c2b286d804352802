"""A checkpoint to a smaller one: the linear layers of a model in int4, calibrated on text (gptq.py)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from llmbench.reference_engine.cache.kv_cache import KVCache
from llmbench.reference_engine.errors import CheckpointError
from llmbench.reference_engine.kernels.contract import LinearParts
from llmbench.reference_engine.kernels.dispatch import CPU, DEFAULT_NUM_THREADS
from llmbench.reference_engine.kernels.torch_kernels import TorchKernels, TorchLinear, normalise
from llmbench.reference_engine.model_runner import ModelRunner
from llmbench.reference_engine.models.loader import SINGLE_FILE, load_model, weight_files
from llmbench.reference_engine.models.new_folder import check_new_folder, new_folder
from llmbench.reference_engine.models.stored_weights import CONFIG_KEY, describe, pack_codes
from llmbench.reference_engine.quantization.gptq import gptq
from llmbench.reference_engine.quantization.group_wise import GROUP_SIZE, round_activations
from llmbench.reference_engine.step_batch import StepBatch
from llmbench.reference_engine.tokenizer import Tokenizer
from llmbench.reference_engine.training import corpus

BLOCK_SIZE = 16


class MeasuredLinear(TorchLinear):
    """Adds up x xᵀ of its inputs, rounded to 8 bits as `int4` rounds them."""

    def __init__(self, parts: LinearParts) -> None:
        super().__init__(parts._replace(quantization=None))
        num_inputs = self.weight.shape[1]
        self.gram = torch.zeros(num_inputs, num_inputs)

    def __call__(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        y = round_activations((x if self.norm is None else normalise(x, self.norm)).float())
        self.gram.addmm_(y.T, y)
        return super().__call__(x, residual)


class MeasuringKernels(TorchKernels):
    def __init__(self, num_threads: int) -> None:
        super().__init__(num_threads, CPU)
        self.linears: list[MeasuredLinear] = []

    def linear(self, parts: LinearParts) -> TorchLinear:
        self.linears.append(MeasuredLinear(parts))
        return self.linears[-1]


def quantise_checkpoint(folder: Path, out: Path, windows: Sequence[Sequence[int]]) -> None:
    """Write `folder`'s model to `out` with its layers in int4, calibrated on token ids; the head stays as it is.

    The files are compressed-tensors' W4A16 (models/stored_weights.py). All layers are calibrated on the inputs that the
    unquantised model has. Of windows longer than the model's context, the first tokens are read. Raises ConfigError for
    an `out` that is neither new nor empty or cannot be written, CheckpointError for a model that is quantised already
    or whose layers' inputs are no multiples of 64.
    """
    check_new_folder(out)
    model = load_model(folder, torch.float32)
    if model.stored_quantization is not None:
        raise CheckpointError(f"{folder} is quantised already; the model it was made from is needed.")
    tensors = model.checkpoint_views()
    # Taken before the runner takes the weights over, and in the checkpoint's order, which is not every kernel's.
    linears = model.checkpoint_linears()
    heads = [name for name, part in linears.items() if part.linear is model.head]
    for head in heads:
        del linears[head]
    weights = {name: part.weight for name, part in linears.items()}
    for name, weight in weights.items():
        if weight.shape[1] % GROUP_SIZE:
            raise CheckpointError(f"{name} has {weight.shape[1]} inputs; int4 needs a multiple of {GROUP_SIZE}.")
    kernels = MeasuringKernels(DEFAULT_NUM_THREADS)
    windows = [window[: model.config.max_position_embeddings] for window in windows]
    length = max(map(len, windows))
    cache = KVCache(model.config, -(-length // BLOCK_SIZE), BLOCK_SIZE, torch.float32)
    runner = ModelRunner(model, cache, kernels, length)
    with torch.inference_mode():
        for window in windows:
            model(window_batch(window, runner))
    named = {part.linear.kernel for part in linears.values()}
    num_unnamed = sum(kernel not in named for kernel in kernels.linears if kernel is not model.head.kernel)
    if num_unnamed:
        raise CheckpointError(
            f"{num_unnamed} of the layers' linears of {model.config.architecture} have no name in a checkpoint; "
            "they would have stayed in floats."
        )
    with torch.inference_mode():
        for name, part in linears.items():
            measured = part.linear.kernel
            assert isinstance(measured, MeasuredLinear)
            del tensors[f"{name}.weight"]
            tensors |= pack_codes(name, gptq(weights[name], measured.gram))
    with new_folder(out) as made:
        _write(folder, made, tensors, describe("int4", heads or ["lm_head"]))


def calibration_windows(folder: Path, text: Path | None, number: int, length: int) -> list[list[int]]:
    """Pieces of `length` tokens from all over the text; of the standard library, as bundled models read it, if None.

    Raises CheckpointError if the text is unreadable or too short for two tokens.
    """
    try:
        texts = corpus.texts()[0] if text is None else [text.read_text(encoding="utf-8")]
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{text} cannot be read as text to calibrate on: {error}") from None
    tokenizer = Tokenizer(folder)
    ids = [token_id for some in texts for token_id in tokenizer.encode(some)]
    if len(ids) < 2:
        raise CheckpointError(f"{text} is empty; text to calibrate on is needed.")
    starts = torch.linspace(0, max(0, len(ids) - length), number).long()
    return [ids[start : start + length] for start in sorted(set(starts.tolist()))]


def window_batch(token_ids: Sequence[int], runner: ModelRunner) -> StepBatch:
    """One text from its first token on, in the cache's first blocks."""
    length = len(token_ids)
    return StepBatch(
        token_ids=torch.tensor(token_ids),
        positions=torch.arange(length),
        spans=torch.tensor([[0, length, length]]),
        block_tables=torch.arange(-(-length // runner.kv_cache.block_size)).unsqueeze(0),
        num_decodes=0,
        kv_cache=runner.kv_cache,
        rotary=runner.rotary,
    )


def _write(folder: Path, out: Path, tensors: dict[str, torch.Tensor], description: dict[str, Any]) -> None:
    left_out = {file.name for file in weight_files(folder)}
    for file in folder.iterdir():
        if file.is_file() and file.name not in left_out and not file.name.endswith(".index.json"):
            shutil.copy(file, out / file.name)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config[CONFIG_KEY] = description
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    stored = {name: tensor.bfloat16() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    save_file({name: tensor.contiguous() for name, tensor in stored.items()}, out / SINGLE_FILE, {"format": "pt"})
