"""What does a step report besides the metrics?

What a step of the user's own returns. A float is taken for a mean over the replica's rows, a whole
number for one that all replicas have alike.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import keras
import tensorflow as tf

from tfdist.compat.untraced import plain_variable
from tfdist.global_batch import position as position_lib
from tfdist.step.dependence import depends, leaves
from tfdist.step.metric_results import Result

Logs = dict[str, Any]


def extra_logs(
    model: keras.Model, returned: Any, inputs: Any = None, *, known: Collection[str] = ()
) -> Logs:
    """Returns the replica's shares of those logs that are not results of the model's metrics.

    A log that is computed from a metric's state is that metric's result, which is read between two
    steps. Any other one is a value of this step, whatever its name.

    Args:
        model: The model.
        returned: What its step returned.
        inputs: The replica's rows; by default those of its position.
        known: The names of logs that are known to be results, whatever their names.

    Raises:
        ValueError: It cannot be known what a log is on all replicas together.
    """
    if not isinstance(returned, dict):
        return {}
    results = model.get_metrics_result()
    shares: Logs = {}
    for name, value in flat(returned).items():
        if name in known:
            continue
        tensor = tf.convert_to_tensor(value)
        state = _state_behind(model, tensor)
        if name in results and (state is not None or tf.executing_eagerly()):
            continue
        position = position_lib.current()
        if state is not None and position is not None and not position.has_all:
            raise ValueError(
                f"The log {name!r} is computed from the metric state {state!r}, which inside a "
                "step holds one replica's part only. Return the metric's result itself, or make a "
                "metric of the log."
            )
        shares[name] = _share(name, tensor, inputs)
    return shares


def _share(name: str, value: tf.Tensor, inputs: Any) -> tf.Tensor:
    """Returns what a replica adds to a log: the mean over the rows, or what all have alike."""
    position = position_lib.current()
    if position is None:
        return value
    if position.has_all:
        return tf.cast(value, tf.int32) if value.dtype == tf.bool else value
    if not value.shape.is_fully_defined():
        raise ValueError(
            f"The log {name!r} has the shape {value.shape}, with a value for each row, say, and "
            f"the rows lie on {position.collectives.num_replicas} replicas. Return their mean."
        )
    if value.dtype.is_floating:
        share = value * position.fraction(value.dtype)
        # A mean of no rows is NaN, which times 0 is NaN.
        return tf.where(position.local_size > 0, share, tf.zeros_like(share))
    sources = leaves(position.inputs if inputs is None else inputs)
    if not tf.executing_eagerly() and depends(value, sources)[0]:
        raise ValueError(
            f"The log {name!r} is a whole number that comes of the rows of the batch. Whether "
            "those of all replicas are to be added, or what else, cannot be seen. Track it by a "
            "metric, such as keras.metrics.Sum."
        )
    value = tf.cast(value, tf.int32) if value.dtype == tf.bool else value
    is_first = tf.equal(position.collectives.replica_id, 0)
    return tf.where(is_first, value, tf.zeros_like(value))


def flat(logs: Logs) -> Logs:
    """Returns logs without the dicts in them."""
    found: Logs = {}
    for name, value in logs.items():
        found |= flat(value) if isinstance(value, dict) else {name: value}
    return found


def _state_behind(model: keras.Model, value: tf.Tensor) -> str | None:
    """Returns the path of a metric's state that a value is computed from; None where there is none.

    Where steps run eagerly nobody can tell.
    """
    if tf.executing_eagerly():
        return None
    states = {id(v.value.handle): v.path for v in model.metrics_variables}
    captured = {id(inner): states.get(id(outer)) for outer, inner in value.graph.captures}
    seen, found = set(), [value]
    while found:
        tensor = found.pop()
        if path := captured.get(id(tensor)):
            return path
        if id(tensor.op) not in seen:
            seen.add(id(tensor.op))
            found += tensor.op.inputs
    return None


def sum_shares(strategy: tf.distribute.Strategy, shares: Logs) -> Logs:
    """Sums the replicas' shares of each log, in cross-replica context."""
    if strategy.num_replicas_in_sync == 1:
        return shares
    return {n: strategy.reduce(tf.distribute.ReduceOp.SUM, v, axis=None) for n, v in shares.items()}


class LastLogs:
    """What a step returned last: for logs that are not results of the model's metrics.

    Attributes:
        names: The names of all logs that a step of the model's own returned; None for Keras's own.
        results: Those of its logs that are results of metrics, by name.
    """

    def __init__(self) -> None:
        self.names: tuple[str, ...] | None = None
        self.results: dict[str, Result] = {}
        self._values: dict[str, tf.Variable] = {}

    def keep(self, logs: dict[str, Any]) -> None:
        """Stores values from inside a traced step."""
        for name, value in logs.items():
            if name not in self._values:
                self._values[name] = plain_variable(value.dtype, shape=value.shape)
            self._values[name].assign(value)

    def read(self) -> dict[str, tf.Tensor]:
        """Returns the values of the last step that ran."""
        return {name: value.read_value() for name, value in self._values.items()}

    def read_results(self) -> Logs:
        """Returns the results of metrics among the logs, over all replicas."""
        return {name: result.read() for name, result in self.results.items()}

    def shown(self, results: Logs) -> Logs:
        """Returns the logs as Keras shows them.

        Those of a step of the model's own are what it returned last; but where they have just the
        names of the metrics, they are taken for these.

        Args:
            results: The results of the model's metrics, and those in `results`.
        """
        returned = self.read()
        if self.names is None:
            return {**returned, **results}
        if set(self.names) == set(results):
            return results
        return {name: returned.get(name, results.get(name)) for name in self.names}
