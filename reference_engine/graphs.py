"""Decode steps without Python: recorded once and replayed, on a GPU and on a CPU, or compiled by torch.

A decode step is the same few hundred kernel launches again and again, and at small batches a GPU waits for the host to
make them. A graph is one launch. It is bound to addresses and shapes, so there is one per batch size, reading inputs
that stay where they are; a batch between two sizes is padded to the larger. Prefill differs in shape from step to step,
is long enough to hide the launches, and stays as it is.
"""

from __future__ import annotations

import bisect
import functools
from collections.abc import Callable
from typing import Any, Protocol

import torch

from llmbench.reference_engine.cache.kv_cache import KVCache
from llmbench.reference_engine.config import GraphsName
from llmbench.reference_engine.errors import ConfigError
from llmbench.reference_engine.kernels.contract import Kernels
from llmbench.reference_engine.layers.rotary import RotaryTable
from llmbench.reference_engine.spans import Spans, no_spans
from llmbench.reference_engine.static_inputs import StaticInputs
from llmbench.reference_engine.step_batch import StepArrays, StepBatch
from llmbench.reference_engine.step_replay import MOST_REPLAYED_ROWS, ReplayedSteps

Step = Callable[[StepBatch], torch.Tensor]

# The kernels whose steps are recorded, and on what device: the torch kernels look at numbers on the way.
RECORDED: dict[GraphsName, tuple[str, str]] = {"cpu": ("cpp", "cpu"), "cuda": ("triton", "cuda")}

# Where a GPU's matrix units work in eights, a batch of 9 takes as long as one of 16.
SIZE_STEP = 8


class DecodeGraphs(Protocol):
    def run(self, step: StepArrays, spans: Spans) -> torch.Tensor | None:
        """Logits [T, vocab_size] of all tokens of a step, valid until the next call; None if no graph fits the step.

        Copying the step to where the graph reads it is part of the span "prepare".
        """
        ...


def resolve(kind: GraphsName, kernels: Kernels, device: torch.device) -> GraphsName:
    """What "auto" stands for with these kernels. Raises ConfigError for "cpu" and "cuda" with any but their own."""
    if kind == "auto":
        return next((graphs for graphs, owner in RECORDED.items() if owner == (kernels.name, device.type)), "off")
    if kind in RECORDED and RECORDED[kind][0] != kernels.name:
        recorded = RECORDED[kind][0]
        raise ConfigError(
            f"graphs = {kind} records the {recorded} kernels, and the kernels that run here are {kernels.name}."
        )
    return kind


def needs_scratch_block(kind: GraphsName) -> bool:
    """True if rows of padding need a KV block to write to, the cache's last one, which must belong to nobody."""
    return kind in ("cuda", "compile")


def make_graphs(
    kind: GraphsName,
    step: Step,
    kv_cache: KVCache,
    rotary: RotaryTable | None,
    max_num_seqs: int,
    max_model_len: int,
) -> DecodeGraphs:
    """Graphs for up to max_num_seqs decodes; on a GPU recorded, and by torch compiled, before this returns.

    step gives the logits of every row of a batch.
    """
    width = -(-max_model_len // kv_cache.block_size)
    if kind == "cpu":
        return ReplayedSteps(step, StaticInputs(max(max_num_seqs, MOST_REPLAYED_ROWS), width, kv_cache, rotary))
    if kind == "compile":
        return CompiledSteps(step, kv_cache, rotary, max_num_seqs, width)
    inputs = StaticInputs(max_num_seqs, width, kv_cache, rotary)
    return RecordedSteps(step, inputs, padded_sizes(max_num_seqs), CudaRecorder())


def padded_sizes(max_num_seqs: int) -> list[int]:
    """Batch sizes with a graph, ascending: 1, 2, 4, then multiples of 8; the last is max_num_seqs."""
    small = [size for size in (1, 2, 4) if size < max_num_seqs]
    return [*small, *range(SIZE_STEP, max_num_seqs, SIZE_STEP), max_num_seqs]


class Recorder(Protocol):
    def record(self, compute: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        """What computes the same again, from what stands at the same addresses then, into one tensor of its own."""
        ...


class CudaRecorder:
    """CUDA and HIP graphs that share one memory pool: the largest comes first, and the others fit into its memory."""

    def __init__(self) -> None:
        self._pool: Any = None

    def record(self, compute: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        # Once unrecorded, on a stream of its own: what is compiled or allocated on first use must not be recorded.
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            compute()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            result = compute()
        self._pool = self._pool or graph.pool()

        def replay() -> torch.Tensor:
            graph.replay()
            return result

        return replay


class RecordedSteps:
    """A graph per padded batch size."""

    def __init__(self, step: Step, inputs: StaticInputs, sizes: list[int], recorder: Recorder) -> None:
        self._inputs = inputs
        self._sizes = sizes
        self._replay = {size: recorder.record(functools.partial(self._compute, step, size)) for size in reversed(sizes)}

    def _compute(self, step: Step, size: int) -> torch.Tensor:
        return step(self._inputs.batch(size, size))

    @torch.inference_mode()
    def run(self, step: StepArrays, spans: Spans) -> torch.Tensor | None:
        place = bisect.bisect_left(self._sizes, step.num_decodes)
        if step.num_decodes < len(step.spans) or place == len(self._sizes):
            return None
        with spans("prepare"):
            self._inputs.fill(step)
        return self._replay[self._sizes[place]]()[: step.num_decodes]


class CompiledSteps:
    """The whole step through torch.compile, for any batch size: a CPU has no launches to save, but fewer passes.

    It is compiled for one sequence and again for several, which takes about a minute of one core each.
    """

    def __init__(
        self, step: Step, kv_cache: KVCache, rotary: RotaryTable | None, max_num_seqs: int, width: int
    ) -> None:
        self._kv_cache = kv_cache
        self._rotary = rotary
        self._width = width
        self._compiled = torch.compile(step, fullgraph=True, dynamic=True)
        inputs = StaticInputs(min(max_num_seqs, 2), width, kv_cache, rotary)
        for size in range(1, len(inputs.token_ids) + 1):
            self._compute(inputs.batch(size, size), no_spans)

    @torch.inference_mode()
    def run(self, step: StepArrays, spans: Spans) -> torch.Tensor | None:
        if step.num_decodes < len(step.spans):
            return None
        with spans("prepare"):
            batch = step.batch(self._kv_cache, self._rotary)
        return self._compute(batch, spans)

    def _compute(self, batch: StepBatch, spans: Spans) -> torch.Tensor:
        n, width = batch.block_tables.shape
        with spans("prepare"):
            tables = torch.nn.functional.pad(batch.block_tables, (0, self._width - width))
            fixed = StepBatch(batch.token_ids, batch.positions, batch.spans, tables, n, batch.kv_cache, batch.rotary)
            # Looked up here: torch.compile does not see through properties that are computed once.
            _ = fixed.slots
            if fixed.rotary is not None:
                _ = fixed.rotation
        return self._compiled(fixed)
