"""What `llmbench run --dry-run` prints: the plan, and nothing sent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table

from llmbench.harness.assemble import Assembly
from llmbench.harness.plan import PlannedRequest, Trial
from llmbench.harness.slo import unjudged
from llmbench.harness.slots import openings, planned_too_wide
from llmbench.workloads.spec import MeasureSpec

NUM_BINS = 8
BAR_WIDTH = 40
NUM_PROMPTS = 3
PROMPT_WIDTH = 96


def show_plan(assembly: Assembly, console: Console) -> None:
    """Print trials, request count, length histograms, the first prompts and the expected time."""
    plan, spec, model = assembly.plan, assembly.spec, assembly.model
    console.print(f"{spec.name}: {spec.description}")
    context = "" if model.max_model_len is None else f", context {model.max_model_len} tokens"
    console.print(f"model {model.name}{context}; workload {spec.digest()[:12]}, prompts {plan.prompts_digest[:12]}")
    console.print()
    console.print(_trials_table(plan.trials))
    num_warmup = sum(len(trial.warmup) for trial in plan.trials)
    console.print(f"{plan.num_requests} requests measured, {num_warmup} more to warm up")
    for sentence in (*_rules(spec.measure), *planned_too_wide(plan.trials), unjudged(spec)):
        if sentence is not None:
            console.print(sentence)
    # Every engine is asked the same, so the first engine's trials stand for all.
    label = plan.trials[0].engine.label
    requests = [request for trial in plan.trials if trial.engine.label == label for request in trial.requests]
    lengths = [request.prompt_tokens for request in requests if request.prompt_tokens is not None]
    if lengths:
        _print_histogram("prompt tokens", lengths, console)
    else:
        console.print("\nprompt tokens: not known before the engine counts them (the model has no tokenizer here)")
    _print_histogram("output tokens asked", [request.generation.max_tokens for request in requests], console)
    console.print("\nfirst prompts")
    for request in requests[:NUM_PROMPTS]:
        console.print(f"  {request.request_id}  {_excerpt(request)}", overflow="ellipsis", no_wrap=True)
    console.print(f"\nexpected time: {expected_time(plan.trials)}")
    console.print("dry run: nothing was sent, no engine was started")


def _rules(measure: MeasureSpec) -> Iterator[str]:
    """What of the plan is left out of the figures, and what is sent again; nothing where neither is asked for."""
    if measure.warmup or measure.cooldown:
        yield f"left out of the figures: warm-up {measure.warmup or 'none'}, cool-down {measure.cooldown or 'none'}"
    if (retries := measure.retries) is not None:
        kinds = ", ".join(kind.replace("_", " ") for kind in retries.on)
        yield (
            f"sent again after {kinds}: up to {retries.attempts} attempts, {retries.backoff} wait from "
            f"{retries.wait_s:g} to {retries.max_wait_s:g} s"
        )


def expected_time(trials: Sequence[Trial]) -> str:
    """How long the schedule alone takes, and what comes on top of it."""
    scheduled = [trial.scheduled_ns for trial in trials]
    known_s = sum(ns for ns in scheduled if ns is not None) / 1e9
    if any(ns is None for ns in scheduled):
        return "a closed loop goes as fast as the engine answers; starting and warming up come on top"
    return f"{known_s:.1f} s of schedule, and on top of it starting, warming up and each trial's last answers"


def _trials_table(trials: Sequence[Trial]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("trial", "round", "engine", "load"):
        table.add_column(heading)
    for heading in ("requests", "warm-up", "in flight at most", "last due"):
        table.add_column(heading, justify="right")
    for number, trial in enumerate(trials, start=1):
        due_ns = trial.scheduled_ns
        table.add_row(
            str(number),
            str(trial.round),
            trial.engine.label,
            trial.level,
            str(len(trial.requests)),
            str(len(trial.warmup)),
            "no limit" if trial.concurrency is None else str(min(trial.concurrency, openings(trial))),
            "when a slot is free" if due_ns is None else f"{due_ns / 1e9:.1f} s",
        )
    return table


def _print_histogram(title: str, values: Sequence[int], console: Console) -> None:
    low, high = min(values), max(values)
    console.print(f"\n{title}: {sum(values)} in all, {low} to {high}, mean {sum(values) / len(values):.1f}")
    for first, last, count, bar in histogram(values):
        label = f"{first}" if first == last else f"{first}-{last}"
        console.print(f"  {label:>13}  {bar:<{BAR_WIDTH}} {count}")


def histogram(values: Sequence[int]) -> list[tuple[int, int, int, str]]:
    """(first, last, count, bar) for up to NUM_BINS equally wide bins; the fullest bin's bar has BAR_WIDTH cells."""
    low, high = min(values), max(values)
    width = -(-(high - low + 1) // NUM_BINS)
    counts = [0] * (-(-(high - low + 1) // width))
    for value in values:
        counts[(value - low) // width] += 1
    rows = []
    for position, count in enumerate(counts):
        first = low + position * width
        rows.append((first, min(first + width - 1, high), count, _bar(count / max(counts))))
    return rows


def _bar(share: float) -> str:
    eighths = max(round(share * BAR_WIDTH * 8), 1 if share > 0 else 0)
    full, rest = divmod(eighths, 8)
    return "█" * full + (" ▏▎▍▌▋▊▉"[rest] if rest else "")


def _excerpt(request: PlannedRequest) -> str:
    generation = request.generation
    text = generation.prompt
    if text is None:
        text = " | ".join(f"{message.role}: {message.content}" for message in generation.messages or ())
    flat = " ".join(text.split())
    return flat if len(flat) <= PROMPT_WIDTH else flat[: PROMPT_WIDTH - 1] + "…"
