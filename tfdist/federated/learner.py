"""How does one model train for many clients, each time as if it had just been made?

All clients of a worker share one model, which is traced once. Before a client trains, everything in
it is set: the weights to those of the server, its optimizer to its first state, its random layers
to seeds of this client and this round. So a client's result does not depend on who trained before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdist.communication.workers import Workers
from tfdist.compat import keras_internals
from tfdist.federated.clients import ClientData, digest
from tfdist.federated.draws import seeded
from tfdist.federated.task import Task
from tfdist.step import variables
from tfdist.training.fitting import evaluate, fit
from tfdist.training.trainer import trainer_of

KEEP_LOCAL = ("statistics", "normalization")


class Learner:
    """A model, its first state, and which of its weights travel.

    Args:
        build_fn: Returns a compiled and built model.
        strategy: What the clients train on: one device, or all of one site.
        keep_local: Which weights stay with the client; see `fit`.
    """

    def __init__(
        self,
        build_fn: Callable[[], keras.Model],
        strategy: tf.distribute.Strategy,
        *,
        keep_local: Any = None,
    ) -> None:
        self.strategy = strategy
        with strategy.scope():
            self.model = build_fn()
        self._refuse_unusable()
        with strategy.scope():
            self.model.optimizer.build(self.model.trainable_variables)
        self._pulls: dict[str, Any] | None = None  # the weights that proximal pulls to
        self._mu: Any = None
        self._workers = Workers(strategy)
        weights = {id(v) for v in self.model.weights}
        entries = variables.entries_of(self.model)
        self._weights = {e.name: e.variable for e in entries if id(e.variable) in weights}
        self._others = [e for e in entries if id(e.variable) not in weights]
        self._first = variables.snapshot(self._others, self._workers)
        stays = _stays(keep_local, self.model)
        self.local = [name for name, v in self._weights.items() if stays(v)]
        self.shared = [name for name in self._weights if name not in self.local]
        self._refuse_integers()

    @property
    def trainable(self) -> list[str]:
        """The names of the weights that are trained and travel."""
        return [name for name in self.shared if self._weights[name].trainable]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of all weights, by name."""
        return {name: tuple(variable.shape) for name, variable in self._weights.items()}

    def values(self, names: Any = None) -> dict[str, np.ndarray]:
        """Returns the current values of weights, by name; of all of them by default."""
        names = self._weights if names is None else names
        return {name: np.array(self._weights[name].value) for name in names}

    def set(self, values: Mapping[str, np.ndarray]) -> None:
        """Sets weights to these values."""
        for name, value in values.items():
            self._weights[name].assign(value)

    def train(
        self, values: Mapping[str, np.ndarray], data: ClientData, task: Task, *, client: str
    ) -> dict[str, float]:
        """Trains on the data of a client.

        Args:
            values: The weights to begin with.
            data: The client's.
            task: What to do.
            client: The client's name, on which its random numbers depend.

        Returns:
            The logs of its last epoch. The model holds what it has learnt.
        """
        seed = digest(task.seed, "client", task.round_number, client)
        self._begin(values, task.proximal, seed)
        with seeded(seed, self.strategy):
            history = fit(
                self.model, data.x, data.y, sample_weight=data.sample_weight,
                batch_size=None if data.is_dataset else task.batch_size, epochs=task.local_epochs,
                shuffle=task.shuffle, verbose=0,
            )
        return {name: float(told[-1]) for name, told in history.history.items()}

    def evaluate(
        self, values: Mapping[str, np.ndarray], data: ClientData, task: Task
    ) -> dict[str, float]:
        """Returns loss and metrics of these weights on a client's data."""
        self.set(values)
        logs = evaluate(
            self.model, data.x, data.y, sample_weight=data.sample_weight, verbose=0,
            batch_size=None if data.is_dataset else task.batch_size, return_dict=True,
        )
        return {name: float(value) for name, value in logs.items()}

    def _begin(self, values: Mapping[str, np.ndarray], proximal: float, seed: bytes) -> None:
        """Sets all of the model to the state in which a client begins a round."""
        first = dict(self._first)
        for number, entry in enumerate(self._others):
            if _is_seed(entry.variable):
                words = np.frombuffer(digest(seed, number)[:8], np.uint32)
                first[entry.name] = words.astype(np.dtype(entry.variable.dtype))
        variables.restore(self._others, first, self._workers)
        self.set(values)
        self._pull(values, proximal)

    def _pull(self, values: Mapping[str, np.ndarray], proximal: float) -> None:
        """Sets the pull towards the server's weights: FedProx, Li et al. 2020, arXiv:1812.06127.

        It is a term of the loss, mu/2 |theta - theta_0|^2, which is there when the step is traced.
        """
        if self._pulls is None:
            self._pulls = {}
            if proximal:
                with self.strategy.scope():
                    self._mu = tf.Variable(0.0, dtype="float64", trainable=False)
                    self._pulls = {
                        name: tf.Variable(self._weights[name].value, trainable=False)
                        for name in self.trainable
                    }
            for name, anchor in self._pulls.items():
                variable = self._weights[name]
                variable.regularizer = _Pulled(variable.regularizer, anchor, self._mu)
        if bool(proximal) != bool(self._pulls):
            raise ValueError(
                f"proximal={proximal!r} came after rounds {'with' if self._pulls else 'without'} "
                "it, for which the step was traced. Give one from the first round on."
            )
        for name, anchor in self._pulls.items():
            anchor.assign(values[name])
        if self._pulls:
            self._mu.assign(proximal)

    def end(self) -> None:
        """Takes out of the model what was put into it for training."""
        for name in self._pulls or {}:
            variable = self._weights[name]
            variable.regularizer = variable.regularizer.inner
        self._pulls = None

    def _refuse_unusable(self) -> None:
        model = self.model
        if not isinstance(model, keras.Model) or not model.built or not model.compiled:
            raise ValueError(
                f"build_fn returned {model!r}, which is no compiled Keras model with weights. Let "
                "it begin with a keras.Input, and call model.compile."
            )
        if trainer_of(model).strategy is not self.strategy:
            raise ValueError(
                "build_fn made its model under a strategy of its own. Let it make the model alone: "
                "it is called inside the scope of the strategy that `device` stands for."
            )

    def _refuse_integers(self) -> None:
        for name in self.shared:
            if not tf.as_dtype(self._weights[name].dtype).is_floating:
                raise ValueError(
                    f"The weight {name!r} is of {self._weights[name].dtype}, which has no mean "
                    "over clients. Leave its layer out of the model, or keep it with the clients "
                    "by keep_local='statistics'."
                )


def _stays(keep_local: Any, model: keras.Model) -> Callable[[Any], bool]:
    """Returns which variables stay with the client, for the option `keep_local`."""
    if keep_local is None:
        return lambda variable: False
    if keep_local == "statistics":
        return lambda variable: not variable.trainable
    if keep_local == "normalization":
        kind = keras.layers.BatchNormalization
        layers = [one for one in keras_internals.flat_layers(model) if isinstance(one, kind)]
        own = {id(v) for layer in layers for v in layer.weights}
        return lambda variable: id(variable) in own
    if callable(keep_local):
        return lambda variable: bool(keep_local(variable))
    raise ValueError(
        f"keep_local={keep_local!r} must be one of {', '.join(map(repr, KEEP_LOCAL))}, a function "
        "of a variable, or None. Leave it out to average all weights."
    )


def _is_seed(variable: Any) -> bool:
    """Whether a variable is the state of a `keras.random.SeedGenerator`."""
    return tuple(variable.shape) == (2,) and tf.as_dtype(variable.dtype) in (tf.uint32, tf.int64)


class _Pulled:
    """A regularizer with the pull beside it.

    Args:
        inner: The weight's own regularizer, or None.
        anchor: What it is pulled to.
        mu: How strongly.
    """

    def __init__(self, inner: Any, anchor: tf.Variable, mu: tf.Variable) -> None:
        self.inner, self._anchor, self._mu = inner, anchor, mu

    def __call__(self, weight: Any) -> Any:
        """Returns the penalty of a weight."""
        value = tf.convert_to_tensor(weight)
        if value.dtype.size < 4:  # whose squares vanish, or overflow
            value = tf.cast(value, tf.float32)
        apart = value - tf.cast(self._anchor, value.dtype)
        pull = 0.5 * tf.cast(self._mu, value.dtype) * tf.reduce_sum(tf.square(apart))
        pull = tf.cast(pull, keras.config.floatx())  # as Keras's losses are
        return pull if self.inner is None else pull + self.inner(weight)
