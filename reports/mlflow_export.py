"""A run's figures in an MLflow tracking store: one MLflow run for each engine and load level.

Needs mlflow: `pip install "llmbench[mlflow]"`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from llmbench.reports.exports import statistics
from llmbench.results.answer import answer
from llmbench.results.errors import RunError
from llmbench.results.run import Run
from llmbench.results.summary import summarise

EXPERIMENT = "llmbench"


def log_to_mlflow(run: Run, uri: str) -> list[str]:
    """The ids of the MLflow runs made in the experiment EXPERIMENT of the store at `uri` (`sqlite:///mlflow.db`, a
    server's URL).

    Metrics are named `ttft_p50`, with `ttft_p50_low` and `ttft_p50_high` beside it, in the table's own units;
    a latency that never came is +inf, which a database's store keeps as its largest number. Raises RunError where the
    store cannot be used, and ModuleNotFoundError without mlflow.
    """
    from mlflow.entities import Metric, Param, RunTag
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    manifest = run.manifest
    created_ms = _epoch_ms(manifest.created_utc)
    workload = str(manifest.workload.get("name", "workload"))
    made = []
    try:
        client = MlflowClient(uri)
        experiment = client.get_experiment_by_name(EXPERIMENT)
        experiment_id = client.create_experiment(EXPERIMENT) if experiment is None else experiment.experiment_id
        for row in summarise(run).rows:
            title = f"{workload}: {row.engine} at {row.level}"
            info = client.create_run(experiment_id, start_time=created_ms, run_name=title).info
            found = [each for each in statistics(run) if (each.engine, each.level) == (row.engine, row.level)]
            metrics = [
                Metric(name, value, created_ms, 0)
                for each in found
                for name, value in _named(each.metric, each.statistic, each.value, each.low, each.high)
            ]
            parameters = {
                "engine": row.engine,
                "level": row.level,
                "workload": workload,
                "model": str(manifest.workload.get("model", "")),
                "rounds": str(row.num_rounds),
                "requests": str(row.num_requests),
                "failed": str(row.num_failed),
            }
            tags = {
                "llmbench.run_id": manifest.run_id,
                "llmbench.workload_digest": manifest.workload_digest,
                "llmbench.prompts_digest": manifest.prompts_digest,
                "llmbench.valid": "no" if manifest.invalid else "yes",
                "mlflow.note.content": "\n\n".join(answer(run)),
            }
            client.log_batch(
                info.run_id,
                metrics,
                [Param(key, value) for key, value in parameters.items()],
                [RunTag(key, value) for key, value in tags.items()],
            )
            client.set_terminated(info.run_id, "FINISHED" if manifest.status == "complete" else "FAILED")
            made.append(info.run_id)
    except MlflowException as error:
        raise RunError(f"The MLflow store {uri} cannot be used: {error}") from None
    return made


def _named(
    metric: str, statistic: str, value: float, low: float | None, high: float | None
) -> Iterator[tuple[str, float]]:
    name = metric if statistic == "total" else f"{metric}_{statistic}"
    yield name, value
    if low is not None and high is not None:
        yield f"{name}_low", low
        yield f"{name}_high", high


def _epoch_ms(utc: str) -> int:
    from datetime import datetime

    return round(datetime.fromisoformat(re.sub("Z$", "+00:00", utc)).timestamp() * 1000)
