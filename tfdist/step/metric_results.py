"""Which log of a step is which metric's result, whatever its name?

A step of the model's own returns `{"loss": self.total_loss.result()}`, say. The tensor holds one
replica's part only, so the log has to be read between two steps, from the metric itself.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import keras

from tfdist.compat import keras_internals


@dataclasses.dataclass(frozen=True)
class Result:
    """A metric's result, or an entry of it where that is a dict.

    Attributes:
        metric: The metric.
        key: Of the entry; None for the whole.
    """

    metric: Any
    key: str | None

    def read(self) -> Any:
        """Returns its value now, in cross-replica context: that of all replicas."""
        value = self.metric.result()
        return value if self.key is None else value[self.key]


class Results:
    """What the metrics of a model have returned as results while a step was traced."""

    def __init__(self) -> None:
        self._noted: dict[int, tuple[Any, Result]] = {}

    def of(self, value: Any) -> Result | None:
        """Returns which result a tensor is, or None."""
        tensor, result = self._noted.get(id(value), (None, None))
        return result if tensor is value else None

    @contextlib.contextmanager
    def noting(self, model: Any) -> Iterator[None]:
        """Notes the results of the metrics of a model and its parts, within a `with` block."""
        metrics = {id(metric): metric for metric in _metrics(model)}
        own = {key: vars(metric).get("result") for key, metric in metrics.items()}
        for metric in metrics.values():  # past Keras's tracking of attributes
            vars(metric)["result"] = self._wrapped(metric, metric.result)
        try:
            yield
        finally:
            for key, metric in metrics.items():
                if own[key] is None:
                    del vars(metric)["result"]
                else:
                    vars(metric)["result"] = own[key]

    def _wrapped(self, metric: Any, result: Callable[[], Any]) -> Callable[[], Any]:
        def noted() -> Any:
            value = result()
            entries = value.items() if isinstance(value, dict) else [(None, value)]
            for key, tensor in entries:
                self._noted[id(tensor)] = tensor, Result(metric, key)
            return value

        return noted


def _metrics(model: Any) -> Iterator[Any]:
    for layer in keras_internals.flat_layers(model):  # the model itself is the first one
        for metric in getattr(layer, "metrics", ()):
            if isinstance(metric, keras.metrics.Metric):
                yield metric
