"""How do Ray, Spark and Dask predict with a saved model?

The engine cuts the data and keeps it in order; here a process loads the model once and runs it on
batches of one shape, so that it is traced once. Each function imports its engine alone.

    dataset.map_batches(tfdist.inference.RayPredictor, fn_constructor_args=[path, "x"],
                        batch_size=256, concurrency=2)
    frame.select(tfdist.inference.spark_udf(path, shape=[4], return_type="array<float>")("x"))
    tfdist.inference.dask_map(frame, path, columns=["a", "b"])
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np


class Predictor:
    """A saved model that predicts for batches of any size, by batches of one.

    Args:
        path: Of a `.keras` file, on each host.
        batch_size: Rows that it predicts for at a time.
    """

    def __init__(self, path: str | os.PathLike[str], *, batch_size: int) -> None:
        self._model = keras.models.load_model(path, compile=False)
        self._batch_size = batch_size

    def __call__(self, x: Any) -> Any:
        """Returns the outputs for `x`, arrays with a row each, or a structure of them."""
        size = len(keras.tree.flatten(x)[0])
        parts = []
        for begin in range(0, max(size, 1), self._batch_size):
            part = keras.tree.map_structure(
                lambda array, begin=begin: array[begin : begin + self._batch_size], x
            )
            rows = len(keras.tree.flatten(part)[0])
            padded = keras.tree.map_structure(self._padded, part)
            outputs = self._model.predict_on_batch(padded)
            parts.append(
                keras.tree.map_structure(lambda array, rows=rows: array[:rows], outputs)
            )
        return keras.tree.map_structure(lambda *arrays: np.concatenate(arrays), *parts)

    def _padded(self, array: Any) -> np.ndarray:
        missing = self._batch_size - len(array)
        return np.pad(array, [(0, missing), *[(0, 0)] * (np.ndim(array) - 1)])


@functools.lru_cache(maxsize=2)
def predictor_of(path: str, *, batch_size: int) -> Predictor:
    """Returns the predictor of a saved model, loaded once in this process."""
    return Predictor(path, batch_size=batch_size)


class RayPredictor:
    """What Ray Data's `map_batches` makes once in each of its processes.

    Args:
        path: Of a `.keras` file, on each host.
        columns: The model's inputs: the name of one, or of several, which it gets as a dict.
        batch_size: Rows that it predicts for at a time.
        output: The column that the predictions are added as.
    """

    def __init__(
        self, path: str, columns: str | Sequence[str], *, batch_size: int = 256,
        output: str = "prediction",
    ) -> None:
        self._predictor = Predictor(path, batch_size=batch_size)
        self._columns, self._output = columns, output

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns a batch with its predictions."""
        name = self._columns
        x = batch[name] if isinstance(name, str) else {each: batch[each] for each in name}
        return {**batch, self._output: self._predictor(x)}


def spark_udf(
    path: str, *, shape: Sequence[int], return_type: Any, batch_size: int = 256
) -> Callable[..., Any]:
    """Returns a function of a column for Spark's frames (`predict_batch_udf`).

    Args:
        path: Of a `.keras` file, on each host.
        shape: Of one row of the input; its column holds numbers, or arrays of all of them in a row.
        return_type: "float" where the model gives one number for each row, else "array<float>"; or
            another type of Spark's.
        batch_size: Rows that it predicts for at a time.
    """
    from pyspark.ml.functions import predict_batch_udf
    from pyspark.sql import types

    named = {"float": types.FloatType(), "array<float>": types.ArrayType(types.FloatType())}
    kind = named.get(return_type, return_type)
    if isinstance(kind, str):
        raise ValueError(f"return_type={kind!r} is unknown; give one of {list(named)}.")

    def make() -> Callable[[np.ndarray], np.ndarray]:
        predictor = predictor_of(path, batch_size=batch_size)

        def predict(x: np.ndarray) -> np.ndarray:
            outputs: np.ndarray = predictor(x)
            return outputs if isinstance(kind, types.ArrayType) else outputs.reshape(len(outputs))

        return predict

    function: Callable[..., Any] = predict_batch_udf(
        make, return_type=kind, batch_size=batch_size,
        input_tensor_shapes=[list(shape)] if shape else None,
    )
    return function


def dask_map(
    frame: Any, path: str, *, columns: Sequence[str], batch_size: int = 256,
    output: str = "prediction",
) -> Any:
    """Returns a Dask frame with the predictions of each row as a further column, in its order.

    Args:
        frame: A `dask.dataframe.DataFrame`.
        path: Of a `.keras` file, on each host.
        columns: Columns of numbers, which are the features of the model's one input, in this order.
        batch_size: Rows that it predicts for at a time.
        output: Name of the further column. It holds numbers where the model gives one for each row,
            else arrays.
    """

    def predicted(x: np.ndarray) -> np.ndarray:
        outputs: np.ndarray = predictor_of(path, batch_size=batch_size)(x)
        return outputs.reshape(len(x), -1)

    one = predicted(np.zeros([1, len(columns)], np.float32))  # what a prediction is, here and now
    is_number = one.shape[1] == 1

    def predict(part: Any) -> Any:
        outputs = predicted(part[list(columns)].to_numpy(np.float32))
        return part.assign(**{output: outputs[:, 0] if is_number else list(outputs)})

    kinds = {**dict(frame.dtypes), output: one.dtype if is_number else np.dtype(object)}
    return frame.map_partitions(predict, meta=kinds)
