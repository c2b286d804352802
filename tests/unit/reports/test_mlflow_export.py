"""A run in MLflow, read back by MLflow's own client from a SQLite file."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmbench.reports.mlflow_export import EXPERIMENT, log_to_mlflow
from llmbench.results.errors import RunError
from llmbench.results.run import Run
from llmbench.results.summary import summarise

mlflow_tracking = pytest.importorskip("mlflow.tracking")


# MLflow is a guest here: what its own imports deprecate is not ours to mend.
@pytest.mark.filterwarnings("default")
def test_figures_and_words_come_back_from_the_store(run: Run, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    made = log_to_mlflow(run, uri)
    client = mlflow_tracking.MlflowClient(uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    found = client.search_runs([experiment.experiment_id], filter_string="params.engine = 'alpha'")
    assert [each.info.run_id for each in found] == made[:1]
    [row] = [row for row in summarise(run).rows if row.engine == "alpha"]
    ttft = row.distribution("ttft")
    assert ttft is not None
    quantile = ttft.quantiles[0.5]
    assert quantile is not None
    assert quantile.interval is not None
    data = found[0].data
    assert data.metrics["ttft_p50"] == quantile.value
    assert (data.metrics["ttft_p50_low"], data.metrics["ttft_p50_high"]) == tuple(quantile.interval)
    assert data.metrics["output_throughput"] == row.total("output_throughput")
    assert data.params["requests"] == str(row.num_requests)
    assert data.tags["llmbench.run_id"] == run.manifest.run_id
    assert data.tags["llmbench.valid"] == "yes"
    assert "alpha" in data.tags["mlflow.note.content"]


@pytest.mark.filterwarnings("default")
def test_a_store_that_cannot_be_used_is_named(run: Run, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="nosuch://store cannot be used"):
        log_to_mlflow(run, "nosuch://store")
