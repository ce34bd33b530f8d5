"""How does the chief write a trained model, and does the file give the outputs of the model?

A file for others is the end of a run, and nobody trains with it any more: a wrong one would show
late. So it is read back as its users do, and compared with what the replicas predict.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import os
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdist.communication.together import written_together
from tfdist.communication.workers import Workers
from tfdist.compat import keras_internals
from tfdist.export.formats import Format, format_of
from tfdist.training.fitting import predict


@dataclasses.dataclass(frozen=True)
class Exported:
    """A model that was written.

    Attributes:
        path: Of the file, or the folder.
        format: "keras", "saved_model", "litert" or "onnx".
        largest_difference: From the model's outputs to those of the file, absolute; None where
            nothing was compared.
    """

    path: str
    format: str
    largest_difference: float | None

    def __str__(self) -> str:
        found = self.largest_difference
        checked = "not checked" if found is None else f"agrees with the model to {found:.1e}"
        return f"{self.path} ({self.format}): {checked}"


def export_model(
    model: keras.Model,
    path: str | os.PathLike[str],
    x: Any = None,
    *,
    format: str | None = None,  # noqa: A002 (as Keras calls it)
    rtol: float = 1e-4,
    atol: float = 1e-5,
    **options: Any,
) -> Exported:
    """Writes a model on the chief, reads the file as its users do, and compares the outputs.

    Every worker has to call it, inside or outside of `strategy.scope()`. What is written needs no
    tfdist and no strategy. The file is there when the call returns, on all workers.

    Args:
        model: A model that is built: functional, sequential, or called before.
        path: A file ending in .keras, .tflite or .onnx, or a folder for a SavedModel.
        x: Inputs to compare with, as `predict` takes them, float32 of shape `(n, ...)` say: arrays,
            or a list or dict of them. None: nothing is compared.
        format: "keras", "saved_model", "litert" or "onnx"; by default as the path ends.
        rtol: What outputs may differ by, relative to those of the model.
        atol: The same, absolute; both together are allowed.
        **options: Further options of `keras.Model.save` or `export`, such as `optimizations` of
            LiteRT.

    Returns:
        What was written, the same on every worker.

    Raises:
        ValueError: The format is unknown, or the path does not end like it.
        ImportError: A package that writes or reads the format is not installed.
        RuntimeError: The file's outputs are others than the model's, or it cannot be read.
    """
    chosen = format_of(path, format)
    target = os.fspath(path)
    workers = Workers(keras_internals.made_under(model) or tf.distribute.get_strategy())
    if workers.is_chief:
        chosen.refuse_missing(is_checked=x is not None)

    def write(to: str) -> None:
        chosen.write(model, to, **options)

    if workers.has_others:
        written_together(write, target, workers)
    else:
        write(target)
    if x is None:
        return Exported(target, chosen.name, None)
    wanted = [np.asarray(leaf) for leaf in keras.tree.flatten(predict(model, x, verbose=0))]
    found: dict[str, Any] = {}
    if workers.is_chief:
        found = _compared(chosen, target, model, x, wanted, rtol=rtol, atol=atol)
    found = json.loads(workers.from_chief(json.dumps(found).encode()))
    if found["error"]:
        raise RuntimeError(found["error"])
    return Exported(target, chosen.name, found["difference"])


def _compared(
    chosen: Format, path: str, model: Any, x: Any, wanted: list[np.ndarray], *, rtol: float,
    atol: float,
) -> dict[str, Any]:
    """Returns the largest difference, and an error where it is too large: plain values."""
    try:
        # In a thread of its own, which is in no strategy's scope: a SavedModel runs in none.
        with concurrent.futures.ThreadPoolExecutor(1) as thread:
            found = thread.submit(chosen.outputs, path, model, x).result()
    except Exception as failure:
        text = (
            f"{path!r} was written, but cannot be read as its users do: {type(failure).__name__}: "
            f"{failure} Write it in another format, or without x, which checks nothing."
        )
        return {"error": text, "difference": None}
    shapes = [list(one.shape) for one in wanted], [list(one.shape) for one in found]
    if shapes[0] != shapes[1]:
        text = (
            f"{path!r} gives outputs of the shapes {shapes[1]}, and the model {shapes[0]}. Give "
            "fewer rows of x where the file has a fixed number of them."
        )
        return {"error": text, "difference": None}
    largest, error = 0.0, ""
    for index, (want, got) in enumerate(zip(wanted, found, strict=True)):
        difference = float(np.max(np.abs(want - got), initial=0.0))
        largest = max(largest, difference)
        if not error and not np.allclose(got, want, rtol=rtol, atol=atol, equal_nan=True):
            error = (
                f"Output {index} of {path!r} is up to {difference:.2g} away from the model's, more "
                f"than rtol={rtol:g} and atol={atol:g} allow. Look for options that round, such as "
                "quantization, and for a plain BatchNormalization, whose replicas have statistics "
                "of their own (synchronized=True has not); or allow more."
            )
    return {"error": error, "difference": largest}
