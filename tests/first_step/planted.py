"""Programs of other people, with a fault that shows on several replicas alone, and right twins.

Each is a function that returns a compiled model of three features and one target. A wrong one has a
twin that does what its author meant in a way that can be split.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

layers, ops = keras.layers, keras.ops
ROWS = 11  # in batches of 5: no batch is split evenly over two replicas


def data() -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(3)
    return draw.normal(size=(ROWS, 3)), draw.normal(size=(ROWS, 1))


class Step(keras.Sequential):
    """A `train_step` as people write it, in parts that the programs change."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.draws = keras.random.SeedGenerator(7)
        self.calls = 0

    def noise(self, x: Any) -> Any:
        return 0.0

    def loss_of(self, y: Any, y_pred: Any) -> Any:
        return ops.mean(ops.square(y - y_pred))

    def changed(self, gradients: Any) -> Any:
        return gradients

    def update(self, gradients: Any) -> None:
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))

    def logs(self, y: Any, y_pred: Any, loss: Any) -> dict[str, Any]:
        return {"cost": ops.mean(ops.square(y - y_pred))}

    def train_step(self, batch: Any) -> dict[str, Any]:
        x, y = batch
        x = x + self.noise(x)
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.loss_of(y, y_pred)
        self.update(self.changed(tape.gradient(loss, self.trainable_variables)))
        return self.logs(y, y_pred, loss)


def _step(**methods: Any) -> Any:
    """Returns a program whose step has some methods of its own."""

    def build() -> keras.Model:
        kind = type("Own", (Step,), methods)
        model = kind([keras.Input((3,)), layers.Dense(2, "tanh"), layers.Dense(1)])
        model.compile(keras.optimizers.SGD(0.1))
        return model

    return build


def _layer(call: Any, **compiled: Any) -> Any:
    """Returns a program with a layer that does `call(layer, x)`, trained by Keras's own step."""

    class Own(layers.Layer):
        def build(self, shape: Any) -> None:
            self.kept = self.add_weight(shape=(3,), initializer="ones", trainable=False)
            self.draws = keras.random.SeedGenerator(5)

        def call(self, x: Any) -> Any:
            return call(self, x)

    return _compiled(lambda: Own(), **compiled)


def _compiled(layer: Any = None, *, loss: Any = "mse", kind: Any = keras.Sequential,
              metrics: Any = None) -> Any:
    def build() -> keras.Model:
        own = [layer()] if layer else []
        model = kind([keras.Input((3,)), *own, layers.Dense(2, "tanh"), layers.Dense(1)])
        made = loss() if isinstance(loss, type) else loss
        model.compile(keras.optimizers.Adam(0.1), made, metrics=[m() for m in metrics or ()])
        return model

    return build


def _functional(operation: Any) -> Any:
    def build() -> keras.Model:
        x = keras.Input((3,))
        model = keras.Model(x, operation(layers.Dense(1)(x)))
        model.compile("adam", "mse")
        return model

    return build


# Losses.


def _with_negatives(scores: Any) -> Any:
    return -ops.mean(ops.diagonal(ops.log_softmax(scores, axis=-1)))


class InBatch(keras.Sequential):
    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        return _with_negatives(ops.matmul(y_pred, ops.transpose(y)))


class Pairs(keras.Sequential):
    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        return ops.mean(ops.softplus(-y * y_pred))


class _SumCalled(keras.losses.Loss):
    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        return ops.sum(ops.square(ops.convert_to_tensor(y_true) - y_pred))


class _MeanCalled(keras.losses.Loss):
    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        return ops.mean(ops.square(ops.convert_to_tensor(y_true) - y_pred))


def _hardest(y_true: Any, y_pred: Any) -> Any:
    distances = ops.abs(y_pred - ops.transpose(y_pred))  # of each row to all others
    return ops.max(distances, axis=-1) + ops.squeeze(ops.square(y_true - y_pred), -1)


def _own_distance(y_true: Any, y_pred: Any) -> Any:
    return ops.squeeze(ops.abs(y_true - y_pred), -1)


# Metrics.


class _State(keras.metrics.Metric):
    def __init__(self, name: str = "own") -> None:
        super().__init__(name=name)
        self.total = self.add_weight(shape=(), initializer="zeros", name="total")
        self.count = self.add_weight(shape=(), initializer="zeros", name="count")

    def result(self) -> Any:
        return self.total / ops.maximum(self.count, 1)


class _RunningMax(_State):
    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        self.total.assign(ops.maximum(self.total, ops.max(ops.abs(y_pred))))


class _MeanOfMeans(_State):
    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        self.total.assign_add(ops.mean(y_pred))
        self.count.assign_add(1.0)


class _WeighedMeans(_State):
    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        rows = ops.cast(ops.shape(y_pred)[0], y_pred.dtype)
        self.total.assign_add(rows * ops.mean(y_pred))  # NaN, were there no row at all
        self.count.assign_add(rows)


class _Variance(_State):
    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        rows = ops.cast(ops.shape(y_pred)[0], y_pred.dtype)
        self.total.assign_add(rows * ops.var(y_pred))
        self.count.assign_add(rows)


class _Counted(_State):
    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        self.total.assign_add(ops.sum(y_pred))
        self.count.assign_add(ops.cast(ops.shape(y_pred)[0], "float64"))


class _Tokens(Step):
    """Counts in its step: by one number for the batch, or by one for each row."""

    by_row = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tokens = keras.metrics.Sum("tokens")

    @property
    def metrics(self) -> list[Any]:
        return [self.tokens]

    def logs(self, y: Any, y_pred: Any, loss: Any) -> dict[str, Any]:
        ones = ops.ones_like(y)[:, 0]
        self.tokens.update_state(ones if self.by_row else ops.sum(ones))
        return {"tokens": self.tokens.result()}


# Layers.


def _centred(layer: Any, x: Any) -> Any:
    return x - ops.mean(x, axis=0, keepdims=True)


def _normed(layer: Any, x: Any) -> Any:
    return x / (1 + ops.norm(x, axis=-1, keepdims=True))


def _contracted(layer: Any, x: Any) -> Any:
    return ops.matmul(x, ops.matmul(ops.transpose(x), x))


def _squared(layer: Any, x: Any) -> Any:
    return x * ops.sum(ops.square(x), axis=-1, keepdims=True)


def _adding(reduce: Any) -> Any:
    def call(layer: Any, x: Any) -> Any:
        layer.add_loss(0.1 * reduce(ops.square(x)))
        return x * layer.kept

    return call


def _codebook(layer: Any, x: Any) -> Any:
    layer.kept.assign(0.9 * layer.kept + 0.1 * ops.mean(x, axis=0))
    return x


def _steps_counted(layer: Any, x: Any) -> Any:
    layer.kept.assign(layer.kept + 1.0)
    return x


def _tf_noise(layer: Any, x: Any) -> Any:
    return x + tf.random.normal(tf.shape(x), dtype=x.dtype)


def _keras_noise(layer: Any, x: Any) -> Any:
    return x + keras.random.normal(ops.shape(x), dtype=x.dtype, seed=layer.draws)


# Parts of a step.


def _masked_mean(self: Any, y: Any, y_pred: Any) -> Any:
    mask = ops.cast(y > 0, y.dtype)
    return ops.sum(mask * ops.square(y - y_pred)) / ops.sum(mask)


def _masked(self: Any, y: Any, y_pred: Any) -> Any:
    return ops.mean(ops.cast(y > 0, y.dtype) * ops.square(y - y_pred))


def _by_python(scale: Any) -> Any:
    def noise(self: Any, x: Any) -> Any:
        self.calls += 1
        return x * scale(self.calls)

    return noise


def _by_hand(self: Any, gradients: Any) -> None:
    for variable, gradient in zip(self.trainable_variables, gradients, strict=True):
        variable.assign(variable - 0.1 * gradient)


def _moved(self: Any, y: Any, y_pred: Any, loss: Any) -> dict[str, Any]:
    weight = self.trainable_variables[0]
    weight.assign(weight + 0.1 * ops.mean(y_pred))
    return {}


def _tokens(*, by_row: bool) -> Any:
    def build() -> keras.Model:
        kind = type("Tokens", (_Tokens,), {"by_row": by_row})
        model = kind([keras.Input((3,)), layers.Dense(1)])
        model.compile("sgd")
        return model

    return build


_mse = keras.losses.MeanSquaredError
_sum = ops.sum

# Name: the wrong program, what is said of it, and the right twin, or None.
PLANTED: dict[str, tuple[Any, str, Any]] = {
    "a sum in a step": (
        _step(loss_of=lambda self, y, p: ops.sum(ops.square(y - p))), "a sum over the batch",
        _step(),
    ),
    "a masked mean in a step": (
        _step(loss_of=_masked_mean), "counts of a mask", _step(loss_of=_masked),
    ),
    "TensorFlow's draws in a step": (
        _step(noise=lambda self, x: tf.random.normal(tf.shape(x), dtype=x.dtype)),
        "RandomStandardNormal",
        _step(noise=lambda self, x: keras.random.normal(ops.shape(x), seed=self.draws)),
    ),
    "NumPy's draws in a trace": (
        _step(noise=lambda self, x: np.random.normal(size=3)), "NumPy",
        _step(noise=lambda self, x: np.arange(3.0)),
    ),
    "a loss divided by a norm of the batch": (
        _step(loss_of=lambda self, y, p: ops.mean(ops.square(y - p)) / ops.norm(p)), "norms",
        # Gradients are those of the global batch, and so is their norm.
        _step(changed=lambda self, g: tf.clip_by_global_norm(g, 0.05)[0]),
    ),
    "a counter in Python": (
        _step(noise=_by_python(lambda calls: 1.0 / calls)), "train_step",
        _step(noise=_by_python(lambda calls: 1.0)),
    ),
    "weights assigned by hand": (
        _step(logs=_moved), "assigns this state", _step(update=_by_hand),
    ),
    "a log that is a sum": (
        _step(logs=lambda self, y, p, loss: {"cost": ops.sum(ops.square(p))}), "'cost'",
        _step(logs=lambda self, y, p, loss: {"cost": ops.mean(ops.square(p))}),
    ),
    "a Sum of one number": (
        _tokens(by_row=False), "'tokens'", _tokens(by_row=True),
    ),
    "negatives of the batch": (
        _compiled(kind=InBatch), "examples of a batch with each other", _compiled(kind=Pairs),
    ),
    "a loss that is called a sum": (
        _compiled(loss=_SumCalled), "a sum over the batch", _compiled(loss=_MeanCalled),
    ),
    "the hardest of the batch": (
        _compiled(loss=lambda y, p: _hardest(y, p)), "examples of a batch with each other",
        _compiled(loss=_own_distance),
    ),
    "a running maximum": (
        _compiled(metrics=[_RunningMax]), "'own'", _compiled(metrics=[_Counted]),
    ),
    "a mean of means": (
        _compiled(metrics=[_MeanOfMeans]), "with equal parts it is right",
        _compiled(metrics=[_WeighedMeans]),
    ),
    "a variance of a batch": (
        _compiled(metrics=[_Variance]), "_Variance", None,
    ),
    "statistics in a layer": (_layer(_centred), "statistics", _layer(_normed)),
    "a contraction over the batch": (_layer(_contracted), "Own.call", _layer(_squared)),
    "a sum that a layer adds": (
        _layer(_adding(ops.sum)), "a mean of means",
        _layer(_adding(lambda squares: ops.mean(ops.sum(squares, axis=-1)))),
    ),
    "a codebook": (_layer(_codebook), "assigns this state", _layer(_steps_counted)),
    "TensorFlow's draws in a layer": (
        _layer(_tf_noise), "RandomStandardNormal", _layer(_keras_noise),
    ),
    "an activation over the batch": (
        _compiled(lambda: layers.Dense(3, activation=lambda x: ops.softmax(x, axis=0))),
        "the activation of", _compiled(lambda: layers.Dense(3, activation=lambda x: x * x)),
    ),
    "an operation over the batch": (
        _functional(lambda x: x - ops.max(x, axis=0, keepdims=True)), "the operation",
        _functional(lambda x: x - ops.max(x, axis=-1, keepdims=True)),
    ),
    "a regularizer that takes a norm": (
        _compiled(lambda: layers.Dense(3, activity_regularizer=lambda x: ops.norm(x))),
        "the activity_regularizer of", None,
    ),
}  # fmt: skip
