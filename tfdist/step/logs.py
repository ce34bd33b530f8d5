"""What does a step report besides the metrics?

What a step of the user's own returns. A scalar of it is a replica's share, and shares are summed.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfdist.compat.untraced import plain_variable
from tfdist.global_batch import losses_metrics
from tfdist.global_batch import position as position_lib

Logs = dict[str, Any]


def extra_logs(model: keras.Model, returned: Any) -> Logs:
    """Returns the replica's shares of those logs that are not results of the model's metrics."""
    if not isinstance(returned, dict):
        return {}
    results, flat = model.get_metrics_result(), _flat(returned)
    extra = {name: tf.convert_to_tensor(flat[name]) for name in flat if name not in results}
    for name, value in extra.items():
        _refuse_local_result(model, name, value)
    return {name: losses_metrics.mean_of_rows(value) for name, value in extra.items()}


def _flat(logs: Logs) -> Logs:
    flat: Logs = {}
    for name, value in logs.items():
        flat |= _flat(value) if isinstance(value, dict) else {name: value}
    return flat


def _refuse_local_result(model: keras.Model, name: str, value: tf.Tensor) -> None:
    """Raises where a log is made from a metric's result, which in a step is a replica's own."""
    if position_lib.current() is None or tf.executing_eagerly():
        return
    states = {id(v.value.handle): v.path for v in model.metrics_variables}
    captured = {id(inner): states.get(id(outer)) for outer, inner in value.graph.captures}
    seen, found = set(), [value]
    while found:
        tensor = found.pop()
        if captured.get(id(tensor)):
            raise ValueError(
                f"The log {name!r} is computed from the metric state {captured[id(tensor)]!r}, "
                "which inside a step holds one replica's part only. Return the metric's result "
                "itself, or make a metric of the log."
            )
        if id(tensor.op) not in seen:
            seen.add(id(tensor.op))
            found += tensor.op.inputs


def sum_shares(strategy: tf.distribute.Strategy, shares: Logs) -> Logs:
    """Sums the replicas' shares of each log, in cross-replica context."""
    if strategy.num_replicas_in_sync == 1:
        return shares
    return {n: strategy.reduce(tf.distribute.ReduceOp.SUM, v, axis=None) for n, v in shares.items()}


class LastLogs:
    """What a step returned last: for logs that are not results of the model's metrics."""

    def __init__(self) -> None:
        self._values: dict[str, tf.Variable] = {}

    def keep(self, logs: dict[str, Any]) -> None:
        """Stores scalars from inside a traced step."""
        for name, value in logs.items():
            if name not in self._values:
                self._values[name] = plain_variable(value.dtype)
            self._values[name].assign(value)

    def read(self) -> dict[str, tf.Tensor]:
        """Returns the values of the last step that ran."""
        return {name: value.read_value() for name, value in self._values.items()}
