"""How is a run watched from outside, while it goes on and when it is over?

Synopsis:

    >>> import keras, numpy as np, tempfile, tfdist
    >>> from tfdist import tracking
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    >>> model.compile("adam", "mse")
    >>> lines = tracking.JsonLines(f"{tempfile.mkdtemp()}/run.jsonl")
    >>> x, y = np.ones((5, 4)), np.ones(5)
    >>> history = tfdist.fit(model, x, y, epochs=2, verbose=0, trackers=[lines])
    >>> [line["event"] for line in tracking.JsonLines.read(lines.path)]
    ['start', 'log', 'log', 'finish']

Read in this order; each file imports from those above it only:

1. tracker.py: what a tracker is.
2. kept_state.py: what a tracker finds again when its run is resumed.
3. json_lines.py: a file with a line of JSON for each thing that is told.
4. tensorboard.py: the files that TensorBoard shows.
5. mlflow.py: a run of MLflow.
6. wandb.py: a run of Weights & Biases.
7. by_name.py: which trackers `fit` and `tfdist run` know by name.
8. examples.py: how many examples some steps have.
9. config.py: what a run is made of.
10. telling.py: how several trackers are told, though some of them may fail.
11. watch.py: what they are told, and when.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfdist.tracking.json_lines import JsonLines
    from tfdist.tracking.mlflow import MLflow
    from tfdist.tracking.tensorboard import TensorBoard
    from tfdist.tracking.tracker import Tracker
    from tfdist.tracking.wandb import WeightsAndBiases

__all__ = ["JsonLines", "MLflow", "TensorBoard", "Tracker", "WeightsAndBiases"]

_MODULE_OF_NAME = {
    "JsonLines": "tfdist.tracking.json_lines",
    "MLflow": "tfdist.tracking.mlflow",
    "TensorBoard": "tfdist.tracking.tensorboard",
    "Tracker": "tfdist.tracking.tracker",
    "WeightsAndBiases": "tfdist.tracking.wandb",
}


def __getattr__(name: str) -> Any:
    """Imports what a name stands for when it is first used: only TensorBoard needs TensorFlow."""
    if name not in _MODULE_OF_NAME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {__all__}")
    return getattr(importlib.import_module(_MODULE_OF_NAME[name]), name)
