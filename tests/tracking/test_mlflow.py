"""Does MLflow itself hold what a run told, and does a resumed run go on in the same one?"""

from __future__ import annotations

import contextlib

import keras
import numpy as np
import pytest

import tfdist
from tfdist import tracking

mlflow = pytest.importorskip("mlflow", reason="pip install 'tfdist[mlflow]'")
# What its own dependencies will refuse one day is for its authors.
pytestmark = pytest.mark.filterwarnings("default")
_X = np.random.default_rng(0).normal(size=(10, 3))


class Stop(keras.callbacks.Callback):
    """Ends a training at the beginning of an epoch."""

    def __init__(self, epoch):
        super().__init__()
        self._epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self._epoch:
            raise KeyboardInterrupt


def _fit(folder, tracker, *, stop_at=None):
    keras.utils.set_random_seed(1)
    strategy = tfdist.get_strategy("2xcpu")
    assert strategy.num_replicas_in_sync == 2
    with strategy.scope():
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(0.1), "mse", metrics=["mae"])
    with contextlib.suppress(KeyboardInterrupt):
        return tfdist.fit(
            model, _X, _X[:, :1], batch_size=4, epochs=3, verbose=0, checkpoint_dir=folder / "run",
            callbacks=[] if stop_at is None else [Stop(stop_at)], trackers=[tracker],
        )
    return None


def test_a_resumed_run_is_one_run_of_mlflow(tmp_path, monkeypatch, logical_cpus):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    first = tracking.MLflow(run_name="ours")
    assert _fit(tmp_path, first, stop_at=2) is None
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    run = client.get_run(first.run_id)
    assert run.info.status == "KILLED"
    # As a new process would, from another folder.
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    second = tracking.MLflow()
    history = _fit(tmp_path, second)
    assert second.run_id == first.run_id
    assert not (tmp_path / "elsewhere" / "mlflow.db").exists()
    [run] = client.search_runs([run.info.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "ours"
    assert run.data.params["replicas"] == "2"
    assert run.data.params["compiled.loss"] == "mse"
    for name in ("loss", "mae"):
        told = client.get_metric_history(run.info.run_id, name)
        assert [metric.step for metric in told] == [3, 6, 9]
        assert [metric.value for metric in told] == history.history[name]
    # MLflow's own state of the process is as it was.
    assert mlflow.active_run() is None


def test_names_that_mlflow_refuses_and_texts_are_told(tmp_path):
    tracker = tracking.MLflow("names", tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    tracker.start({"a(b)": {"c": 1}})
    tracker.log({"f1[0]": 0.5, "loss": float("nan"), "check/train_step": "it agrees"}, step=7)
    tracker.finish("saved")
    run = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").get_run(tracker.run_id)
    assert run.data.params == {"a_b_.c": "1"}
    assert run.data.metrics["f1_0_"] == 0.5
    assert np.isnan(run.data.metrics["loss"])
    assert run.data.tags["check/train_step"] == "it agrees"
    assert run.info.status == "SCHEDULED"
    first = tracker.run_id
    tracker.start({})  # a second `fit` of the same program
    assert tracker.run_id != first
