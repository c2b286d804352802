"""What each step of an engine did and how long each part of it took."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from llmbench.reference_engine.engine import Engine
from llmbench.reference_engine.models.decoder import Decoder
from llmbench.reference_engine.outputs import StepOutput
from llmbench.reference_engine.profiling.model_parts import ModelParts
from llmbench.reference_engine.profiling.roofline import ModelWork, Work
from llmbench.reference_engine.scheduler import StepPlan
from llmbench.reference_engine.spans import Span, SpanLog

# In the order in which a step goes through them; "rest" is what none of them covers.
MODEL_PARTS = ("embed", "attention", "MLP", "head")
PARTS = ("draft", "schedule", "prepare", *MODEL_PARTS, "sample", "deliver", "detokenise", "rest")


class StepRow(NamedTuple):
    """One step: `spans` lie between start_ns and end_ns, those of the layers one by one. `work` is of MODEL_PARTS."""

    start_ns: int
    end_ns: int
    num_sequences: int
    num_prefill_tokens: int
    spans: Sequence[Span]
    work: dict[str, Work]

    @property
    def kind(self) -> str:
        if self.num_prefill_tokens == 0:
            return f"decode of {self.num_sequences}"
        return f"prefill of {self.num_prefill_tokens} in a step of {self.num_sequences}"

    def seconds(self) -> dict[str, float]:
        """Part to its time, all layers together; with the whole step as "step"."""
        times = dict.fromkeys(PARTS, 0.0)
        for span in self.spans:
            times[span.name] += span.duration_ns / 1e9
        whole = (self.end_ns - self.start_ns) / 1e9
        times["rest"] = whole - sum(times.values())
        return times | {"step": whole}


class PartFigures(NamedTuple):
    """Of one part in all steps of a kind: median and half the interquartile range in seconds, median share of the step,
    and the achieved rates, None where the part's work is not counted."""

    seconds: float
    spread: float
    share: float
    bytes_per_s: float | None
    operations_per_s: float | None


class StepProfiler:
    """Steps an engine and keeps a row of each; `detokenise` is given the outputs, as a server's would be."""

    def __init__(self, engine: Engine, detokenise: Callable[[Sequence[StepOutput]], object]) -> None:
        runner, model = engine._runner, engine._runner.model
        assert isinstance(model, Decoder)
        self._engine = engine
        self._detokenise = detokenise
        self._log = SpanLog()
        engine.spans = runner.spans = self._log
        # Before they are covered by stamps: what the parts weigh.
        self._work = ModelWork(model, runner.kv_cache.data.dtype)
        self._parts = ModelParts(model, engine._kernels.name)
        # Of the step being computed: its plan, and how many rows got logits.
        self._plans: list[tuple[StepPlan, int]] = []
        execute = runner.execute

        def noting_the_plan(plan: StepPlan) -> torch.Tensor:
            logits = execute(plan)
            self._plans.append((plan, logits.shape[0]))
            return logits

        runner.execute = noting_the_plan  # type: ignore[method-assign]

    def step(self) -> StepRow | None:
        """None for a step without work."""
        self._log.take()
        self._plans.clear()
        start_ns = time.perf_counter_ns()
        outputs = self._engine.step()
        computed_ns = time.perf_counter_ns()
        with self._log("detokenise"):
            self._detokenise(outputs)
        end_ns = time.perf_counter_ns()
        if not self._plans:
            return None
        ((plan, num_sampled),) = self._plans
        spans = self._log.take()
        sampling = next((span.start_ns for span in spans if span.name == "sample"), computed_ns)
        spans += self._parts.take(sampling)
        chunks = plan.chunks
        num_prefill = sum(chunk.num_tokens for chunk in chunks[plan.num_decodes :] if not chunk.draft_token_ids)
        work = self._work.of_step(chunks, num_sampled)
        return StepRow(start_ns, end_ns, len(chunks), num_prefill, spans, work)


def by_kind(rows: Sequence[StepRow]) -> dict[str, list[StepRow]]:
    kinds: dict[str, list[StepRow]] = {}
    for row in rows:
        kinds.setdefault(row.kind, []).append(row)
    return kinds


def figures(rows: Sequence[StepRow]) -> dict[str, PartFigures]:
    """Part, and "step" for the whole, to its figures; without parts that took no time."""
    times = [row.seconds() for row in rows]
    result: dict[str, PartFigures] = {}
    for part in (*PARTS, "step"):
        seconds = [each[part] for each in times]
        if not any(seconds):
            continue
        middle = statistics.median(seconds)
        spread = 0.0
        if len(seconds) > 1:
            low, _, high = statistics.quantiles(seconds, n=4)
            spread = (high - low) / 2
        share = statistics.median(each[part] / each["step"] for each in times)
        works = [_work(row, part) for row in rows]
        counted = [(work, time) for work, time in zip(works, seconds, strict=True) if work is not None and time > 0]
        rates: tuple[float | None, float | None] = (None, None)
        if counted:
            rates = (
                statistics.median(work.num_bytes / time for work, time in counted),
                statistics.median(work.num_operations / time for work, time in counted),
            )
        result[part] = PartFigures(middle, spread, share, *rates)
    return result


def _work(row: StepRow, part: str) -> Work | None:
    return sum(row.work.values(), Work(0, 0)) if part == "step" else row.work.get(part)
