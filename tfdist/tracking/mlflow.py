"""How is a run told to MLflow?  As a run of an experiment, in a local SQLite file by default."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from typing import Any

from tfdist.tracking import kept_state
from tfdist.tracking.tracker import Value, flat, require

_NAME = "mlflow"
_DEFAULT_EXPERIMENT = "tfdist"
# MLflow has no word for a run that was saved; "SCHEDULED" is one that will be run later.
_STATUS_OF = {
    "finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED", "saved": "SCHEDULED",
}  # fmt: skip
_NOT_ALLOWED = re.compile(r"[^\w\-. :/]")  # in names


class MLflow:
    """A tracker that tells MLflow, beside whatever run of its own a program has active there.

    A run that is resumed from its checkpoints goes on in the same run of MLflow.

    Args:
        experiment: Its name; by default that of MLFLOW_EXPERIMENT_NAME, else "tfdist".
        tracking_uri: Where MLflow keeps its runs; by default that of MLFLOW_TRACKING_URI, else
            where the resumed run is, else the SQLite file mlflow.db in the working directory.
        run_name: Shown by MLflow; by default one that MLflow draws.
        run_id: Of a run to go on with, whatever was kept.

    Raises:
        ImportError: MLflow is not installed.
    """

    def __init__(
        self,
        experiment: str | None = None,
        *,
        tracking_uri: str | None = None,
        run_name: str | None = None,
        run_id: str | None = None,
    ) -> None:
        require("mlflow", tracker="MLflow", extra="mlflow")
        self._experiment, self._run_name = experiment, run_name
        self._uri, self._asked_run = tracking_uri, run_id
        #: Of the run of MLflow, from its start on.
        self.run_id = run_id
        self._client: Any = None

    def start(self, config: Mapping[str, Any]) -> None:
        """Begins a run of MLflow, or goes on with one; see `Tracker`."""
        from mlflow import MlflowClient

        folder = config.get("checkpoint_dir")
        kept = kept_state.kept(folder, _NAME)
        asked = self._uri or os.environ.get("MLFLOW_TRACKING_URI")
        uri = asked or kept.get("tracking_uri") or f"sqlite:///{os.path.abspath('mlflow.db')}"
        self._client = MlflowClient(tracking_uri=uri)
        self.run_id = self._asked_run  # another `fit` with this tracker is another run
        if self.run_id is None and kept.get("tracking_uri") == uri:
            self.run_id = kept["run_id"]
        if self.run_id is None:
            self.run_id = self._begun(config)
        else:
            self._client.update_run(self.run_id, status="RUNNING")
        kept_state.keep(folder, _NAME, {"tracking_uri": uri, "run_id": self.run_id})

    def log(self, values: Mapping[str, Value], step: int) -> None:
        """Tells numbers as metrics, and texts as tags; see `Tracker`."""
        from mlflow.entities import Metric, RunTag

        now = int(1000 * time.time())
        named = {_NOT_ALLOWED.sub("_", name): value for name, value in values.items()}
        texts = {name: value for name, value in named.items() if isinstance(value, str)}
        numbers = {
            name: float(value) for name, value in named.items() if not isinstance(value, str)
        }
        self._client.log_batch(
            self.run_id,
            metrics=[Metric(name, value, now, step) for name, value in numbers.items()],
            tags=[RunTag(name, value) for name, value in texts.items()],
        )

    def finish(self, status: str) -> None:
        """Ends the run of MLflow; see `Tracker`."""
        self._client.set_terminated(self.run_id, status=_STATUS_OF[status])

    def _begun(self, config: Mapping[str, Any]) -> str:
        from mlflow.entities import Param

        name = self._experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME", _DEFAULT_EXPERIMENT)
        known = self._client.get_experiment_by_name(name)
        experiment = known.experiment_id if known else self._client.create_experiment(name)
        run_id: str = self._client.create_run(experiment, run_name=self._run_name).info.run_id
        params = {_NOT_ALLOWED.sub("_", key): value for key, value in flat(config).items()}
        self._client.log_batch(
            run_id, params=[Param(key, str(value)) for key, value in params.items()]
        )
        return run_id
