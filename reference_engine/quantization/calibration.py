"""A checkpoint to a smaller one: the linear layers of a model in int4, calibrated on text (gptq.py)."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from llmbench.reference_engine.cache.kv_cache import KVCache
from llmbench.reference_engine.errors import CheckpointError
from llmbench.reference_engine.kernels.contract import LinearParts
from llmbench.reference_engine.kernels.dispatch import CPU, DEFAULT_NUM_THREADS
from llmbench.reference_engine.kernels.torch_kernels import TorchKernels, TorchLinear, normalise
from llmbench.reference_engine.layers.linear import CODES, SCALES
from llmbench.reference_engine.model_runner import ModelRunner
from llmbench.reference_engine.models.loader import SINGLE_FILE, load_model, weight_files
from llmbench.reference_engine.models.stored_weights import CONFIG_KEY, describe, pack_codes
from llmbench.reference_engine.quantization.gptq import gptq
from llmbench.reference_engine.quantization.group_wise import GROUP_SIZE, QuantizedWeight, round_activations
from llmbench.reference_engine.step_batch import StepBatch
from llmbench.reference_engine.tokenizer import Tokenizer
from llmbench.reference_engine.training import corpus

BLOCK_SIZE = 16
# Layers are numbered in every family's names; embedding, last norm and head are not.
_OF_A_LAYER = re.compile(r"\.\d+\.")


class MeasuredLinear(TorchLinear):
    """Adds up x xᵀ of its inputs, rounded to 8 bits as they will be."""

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
        if isinstance(parts.weight, QuantizedWeight):
            raise CheckpointError("The checkpoint is quantised already; the model it was made from is needed.")
        self.linears.append(MeasuredLinear(parts))
        return self.linears[-1]


def quantise_checkpoint(folder: Path, out: Path, windows: Sequence[Sequence[int]]) -> None:
    """Write `folder`'s model to `out` with its layers in int4, calibrated on token ids; the head stays as it is.

    The files are compressed-tensors' W4A16 (models/stored_weights.py). All layers are calibrated on the inputs that the
    unquantised model has. Raises CheckpointError for a model whose layers' inputs are no multiples of 64.
    """
    model = load_model(folder, torch.float32)
    views = model.checkpoint_views()
    kernels = MeasuringKernels(DEFAULT_NUM_THREADS)
    length = max(map(len, windows))
    cache = KVCache(model.config, -(-length // BLOCK_SIZE), BLOCK_SIZE, torch.float32)
    runner = ModelRunner(model, cache, kernels, length)
    with torch.inference_mode():
        for window in windows:
            model(window_batch(window, runner))
    tensors = {name: view for name, view in views.items() if not name.endswith((f".{CODES}", f".{SCALES}"))}
    codes = {name.removesuffix(f".{CODES}"): view for name, view in views.items() if name.endswith(f".{CODES}")}
    with torch.inference_mode():
        for linear in kernels.linears:
            for name, rows in _rows_by_name(linear.weight, codes).items():
                if not _OF_A_LAYER.search(f"{name}."):
                    continue
                if linear.weight.shape[1] % GROUP_SIZE:
                    raise CheckpointError(
                        f"{name} has {linear.weight.shape[1]} inputs; int4 needs a multiple of {GROUP_SIZE}."
                    )
                quantised = gptq(linear.weight[rows], linear.gram)
                del tensors[f"{name}.weight"]
                tensors |= pack_codes(name, quantised)
    _write(folder, out, tensors)


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


def _rows_by_name(weight: torch.Tensor, views: dict[str, torch.Tensor]) -> dict[str, slice]:
    """The checkpoint's linears that are stacked in this weight."""
    first, row_bytes = weight.data_ptr(), weight.shape[1] * weight.itemsize
    found: dict[str, slice] = {}
    for name, view in views.items():
        start = (view.data_ptr() - first) // row_bytes
        if 0 <= view.data_ptr() - first < weight.nbytes and view.shape[1:] == weight.shape[1:]:
            found[name] = slice(start, start + view.shape[0])
    return found


def _write(folder: Path, out: Path, tensors: dict[str, torch.Tensor]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    left_out = {file.name for file in weight_files(folder)}
    for file in folder.iterdir():
        if file.is_file() and file.name not in left_out and not file.name.endswith(".index.json"):
            shutil.copy(file, out / file.name)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config[CONFIG_KEY] = describe("int4")
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    stored = {name: tensor.bfloat16() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    save_file({name: tensor.contiguous() for name, tensor in stored.items()}, out / SINGLE_FILE, {"format": "pt"})
