"""Trains Keras 3 models on many devices with the weights, losses and metrics that one device gives.

Synopsis:

    >>> import keras, tfdist
    >>> strategy = tfdist.get_strategy("2xcpu")
    >>> with strategy.scope():
    ...     model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(10, "softmax")])
    ...     model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    >>> (x, y), (x_test, y_test) = tfdist.datasets.load_digits()
    >>> history = tfdist.fit(model, x, y, batch_size=64, epochs=2, verbose=0)
    >>> logs = tfdist.evaluate(model, x_test, y_test, return_dict=True, verbose=0)
    >>> sorted(logs)
    ['accuracy', 'loss']

Glossary, with one meaning everywhere:

- worker: one process of the job; a job on one machine without a launcher has one.
- replica: one copy of the model on one device. A worker has one replica or more.
- chief: worker 0, the one that shows progress and writes what is written once.
- step: one update of the weights by the optimizer, the same one on all replicas.
- timestep: one position of a sequence, such as a word of a sentence.
- global batch: the examples of one step, over all replicas of all workers; `batch_size` counts it.
- per-replica batch: one replica's share of the global batch; it may be smaller than the others'.

Read in this order, in which each folder builds on the ones above it and imports from those only.
Each folder's docstring says in which order to read its files:

1. cluster/: who are the workers, and are they all there, alike and alive?
2. launch/: how are workers started and ended?
3. compat/: which private names of Keras and TensorFlow does everything else depend on?
4. strategy/: which strategy do I train on, and why that one?
5. communication/: which replicas and workers are there, and what do they tell each other?
6. data/: which examples are in which batch of which replica?
7. global_batch/: what do losses, metrics, layers and draws mean when a replica sees only its rows?
8. sharding/: which part of an optimizer's states does a replica hold?
9. step/: what is one update of the weights?
10. privacy/: how does a model learn from data without telling whose they were?
11. loop/: how are many steps run inside one traced function, and how many at a time?
12. encryption/: how is what a run writes kept from those who hold no key?
13. checkpoint/: what is a run, and how does it go on after a stop?
14. first_step/: does a step mean the same split over the replicas as whole on one?
15. tracking/: how is a run watched from outside?
16. training/: how do epochs, validation and callbacks run, and what is checked meanwhile?
17. inference/: how does a model predict for data that no memory holds?
18. export/: how is a trained model written for others, and does the file give its outputs?
19. federated/: how is a model trained on data that stays with its clients?
20. diagnostics/: does it agree with one device, how fast is it, and how large may it be?
21. tpu/: will it train on a TPU that is not there?
22. datasets/: which data is there to try it on?
23. cli/: what can be done from a terminal?

Beside the folders are testing.py (workers for tests), parquet.py (data of an engine) and
__main__.py (`python -m tfdist`).

Importing tfdist does nothing else: TensorFlow is imported when a name that needs it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfdist import (
        datasets,
        encryption,
        export,
        federated,
        inference,
        launch,
        parquet,
        privacy,
        testing,
        tpu,
        tracking,
    )
    from tfdist.checkpoint.checkpointer import Checkpointer
    from tfdist.cluster.detection import Cluster, detect_cluster
    from tfdist.communication.compression import Reduction
    from tfdist.data.files.record_files import from_files
    from tfdist.data.rows_dataset import RowsDataset
    from tfdist.diagnostics.batch_size import find_batch_size
    from tfdist.diagnostics.memory_estimate import estimate_memory
    from tfdist.diagnostics.verification import verify
    from tfdist.global_batch.all_rows import all_rows
    from tfdist.inference.predicting_to import predict_to
    from tfdist.inference.rows import split
    from tfdist.strategy.factory import describe, get_strategy
    from tfdist.training.custom_loop import (
        apply_gradients,
        average_loss,
        distribute_dataset,
        make_train_step,
    )
    from tfdist.training.fitting import (
        evaluate,
        fit,
        predict,
        predict_on_batch,
        test_on_batch,
        train_on_batch,
    )
    from tfdist.training.patching import patch_keras, unpatch_keras
    from tfdist.training.trainer import Trainer

__version__ = "0.2.0"

__all__ = [
    "Checkpointer",
    "Cluster",
    "Reduction",
    "RowsDataset",
    "Trainer",
    "all_rows",
    "apply_gradients",
    "average_loss",
    "datasets",
    "describe",
    "detect_cluster",
    "distribute_dataset",
    "encryption",
    "estimate_memory",
    "evaluate",
    "export",
    "federated",
    "find_batch_size",
    "fit",
    "from_files",
    "get_strategy",
    "inference",
    "launch",
    "make_train_step",
    "parquet",
    "patch_keras",
    "predict",
    "predict_on_batch",
    "predict_to",
    "privacy",
    "split",
    "test_on_batch",
    "testing",
    "tpu",
    "tracking",
    "train_on_batch",
    "unpatch_keras",
    "verify",
]

_MODULE_OF_NAME = {
    "Checkpointer": "tfdist.checkpoint.checkpointer",
    "Cluster": "tfdist.cluster.detection",
    "Reduction": "tfdist.communication.compression",
    "RowsDataset": "tfdist.data.rows_dataset",
    "Trainer": "tfdist.training.trainer",
    "all_rows": "tfdist.global_batch.all_rows",
    "apply_gradients": "tfdist.training.custom_loop",
    "average_loss": "tfdist.training.custom_loop",
    "describe": "tfdist.strategy.factory",
    "detect_cluster": "tfdist.cluster.detection",
    "distribute_dataset": "tfdist.training.custom_loop",
    "estimate_memory": "tfdist.diagnostics.memory_estimate",
    "evaluate": "tfdist.training.fitting",
    "find_batch_size": "tfdist.diagnostics.batch_size",
    "fit": "tfdist.training.fitting",
    "from_files": "tfdist.data.files.record_files",
    "get_strategy": "tfdist.strategy.factory",
    "make_train_step": "tfdist.training.custom_loop",
    "patch_keras": "tfdist.training.patching",
    "predict": "tfdist.training.fitting",
    "predict_on_batch": "tfdist.training.fitting",
    "predict_to": "tfdist.inference.predicting_to",
    "split": "tfdist.inference.rows",
    "test_on_batch": "tfdist.training.fitting",
    "train_on_batch": "tfdist.training.fitting",
    "unpatch_keras": "tfdist.training.patching",
    "verify": "tfdist.diagnostics.verification",
}

_SUBMODULES = (
    "datasets", "encryption", "export", "federated", "inference", "launch", "parquet", "privacy",
    "testing", "tpu", "tracking",
)  # fmt: skip


def __getattr__(name: str) -> Any:
    """Imports what a public name stands for when the name is first used (PEP 562)."""
    if name in _SUBMODULES:
        return _import_module(f"tfdist.{name}", name=name)
    if name not in _MODULE_OF_NAME:
        raise AttributeError(f"module 'tfdist' has no attribute {name!r}; it has {__all__}")
    value = getattr(_import_module(_MODULE_OF_NAME[name], name=name), name)
    globals()[name] = value  # the next use finds it without coming here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _import_module(module: str, *, name: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in ("keras", "tensorflow"):
            raise
        raise ImportError(
            f"tfdist.{name} needs the package {missing!r}, which is not installed. Install it with "
            "exactly one of the extras: pip install 'tfdist[cpu]', 'tfdist[gpu]' or 'tfdist[tpu]'.",
            name=missing,
        ) from error
