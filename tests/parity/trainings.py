"""What is trained on what, where a value of each axis was chosen? See axes.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from parity.axes import AXES, Training
from parity.case import Case

layers, ops = keras.layers, keras.ops
_TIMESTEPS, _FEATURES, _UNITS, _CLASSES = 4, 3, 4, 3
_TOLERANCES = {"float64": 1e-9, "float32": 1e-3, "mixed_bfloat16": 6e-2, "mixed_float16": 6e-2}
#: Keras's names of a loss, as a function and as a class; the activation before it.
_LOSSES = {
    "squares": ("mean_squared_error", "MeanSquaredError", None),
    "classes": ("sparse_categorical_crossentropy", "SparseCategoricalCrossentropy", "softmax"),
    "binary": ("binary_crossentropy", "BinaryCrossentropy", "sigmoid"),
    "dice": ("dice", "Dice", "sigmoid"),
}
_OPTIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "clipnorm": {"clipnorm": 0.05},
    "clipvalue": {"clipvalue": 0.01},
    "global_clipnorm": {"global_clipnorm": 0.1},
    "accumulation": {"gradient_accumulation_steps": 2},
    "average": {"use_ema": True},
    "average, overwriting": {"use_ema": True, "ema_overwrite_frequency": 2},
    "loss scale": {"loss_scale_factor": 16.0},
    "weight decay": {"weight_decay": 0.05},
}


class Positions(layers.Layer):
    """Adds a row of a table to each timestep: the table is looked up without a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.supports_masking = layers.Embedding(_TIMESTEPS, _UNITS), True

    def call(self, x: Any) -> Any:
        return x + self.table(ops.arange(_TIMESTEPS))


class Penalizing(layers.Layer):
    """Adds a mean over its outputs to the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.supports_masking = True

    def call(self, x: Any) -> Any:
        self.add_loss(0.1 * ops.mean(ops.square(ops.cast(x, keras.config.floatx()))))
        return x


class OwnMetric(keras.metrics.Metric):
    """The mean of the squared outputs, by states that are added to."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.total = self.add_weight(name="total", initializer="zeros")
        self.count = self.add_weight(name="count", initializer="zeros")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        self.total.assign_add(ops.sum(ops.square(ops.cast(y_pred, self.dtype))))
        self.count.assign_add(ops.sum(ops.ones_like(y_pred, dtype=self.dtype)))

    def result(self) -> Any:
        return self.total / ops.maximum(self.count, 1.0)


def own_metric(y_true: Any, y_pred: Any) -> Any:
    """Has a value a row, or a timestep."""
    return ops.mean(ops.abs(y_pred), axis=-1)


class Batches(keras.utils.PyDataset):
    """Batches of arrays."""

    def __init__(self, arrays: tuple[Any, ...], size: int) -> None:
        super().__init__()
        self.arrays, self.size = arrays, size

    def __len__(self) -> int:
        return -(-len(self.arrays[0]) // self.size)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        return tuple(one[index * self.size : (index + 1) * self.size] for one in self.arrays)


def _looked_up(x: Any, inputs: Any) -> Any:
    bins = layers.Discretization(bin_boundaries=[-0.5, 0.0, 0.5])(inputs[..., 0])
    return layers.Add()([x, layers.Embedding(4, _UNITS)(bins)])


#: What stands between the first layer and the last: of its output, and of the model's input.
_BETWEEN: dict[str, Callable[[Any, Any], Any]] = {
    "dense": lambda x, _: layers.Dense(_UNITS, "tanh")(x),
    "dropout": lambda x, _: layers.Dropout(0.4)(x),
    "noise": lambda x, _: layers.GaussianNoise(0.3)(x),
    "batch normalization": lambda x, _: layers.BatchNormalization(
        synchronized=True, momentum=0.7
    )(x),
    "layer normalization": lambda x, _: layers.LayerNormalization()(x),
    "recurrent": lambda x, _: layers.GRU(_UNITS, return_sequences=True)(x),
    "convolution": lambda x, _: layers.Conv1D(_UNITS, 2, padding="same")(x),
    "attention": lambda x, _: layers.MultiHeadAttention(2, 2, dropout=0.2)(x, x),
    "positions": lambda x, _: Positions()(x),
    "embedding": _looked_up,
    "penalized": lambda x, _: layers.Dense(_UNITS, kernel_regularizer="l2")(x),
    "activity penalized": lambda x, _: layers.Dense(_UNITS, activity_regularizer="l2")(x),
    "add_loss": lambda x, _: Penalizing()(x),
    "spectral normalization": lambda x, _: layers.SpectralNormalization(layers.Dense(_UNITS))(x),
}


def name_of(training: Training) -> str:
    """Names a training by its values, in the order of the axes."""
    return " | ".join(training[axis] for axis in AXES)


def training_of(name: str) -> Training:
    """Returns the training that a name stands for."""
    return dict(zip(AXES, name.split(" | "), strict=True))


def case_of(training: Training) -> Case:
    """Returns a training as a row of its own."""
    rows, size = _sizes(training)
    precision = training["precision"]
    fit: dict[str, Any] = {}
    if training["data"] == "arrays":
        fit["batch_size"] = size
    if training["data"] == "generator":
        fit["steps_per_epoch"] = -(-rows // size)
    if training["weights"] == "of classes":
        fit["class_weight"] = {0: 0.5, 1: 2.0, 2: 0.0}
    return Case(
        name=name_of(training),
        build=lambda: _build(training),
        data=lambda: _data(training),
        fit=fit,
        then=(training["then"],),
        floatx="float64" if precision == "float64" else "float32",
        tolerance=_TOLERANCES[precision],
        static_shapes=training["data"] == "padded",
        worlds=(training["world"],),
    )


def _sizes(training: Training) -> tuple[int, int]:
    """Returns how many rows there are, and in a batch."""
    rows, size = training["rows"].split(" by ")
    return int(rows), int(size)


def _build(training: Training) -> keras.Model:
    keras.config.set_dtype_policy(training["precision"])
    x = inputs = keras.Input((_TIMESTEPS, _FEATURES))
    if training["mask"] != "none":
        x = layers.Masking(0.0)(x)
    x = layers.Dense(_UNITS, "tanh")(x)
    for layer in training["layer"].split(" + "):
        x = _BETWEEN[layer](x, inputs)
    if training["targets"] == "of a row":
        x = layers.GlobalAveragePooling1D()(x)
    units = {"squares": 1, "classes": _CLASSES}.get(training["loss"], 2)
    activation = _LOSSES[training["loss"]][2]
    outputs = layers.Dense(units, activation, dtype=keras.config.floatx())(x)
    model = keras.Model(inputs, outputs)
    of_rows, counted = "mae", keras.metrics.MeanSquaredError
    if training["loss"] == "classes":
        of_rows, counted = "accuracy", keras.metrics.SparseCategoricalAccuracy
    metric = {
        "none": [], "string": [of_rows], "weighted string": [of_rows], "own class": [OwnMetric()],
        "own function": [own_metric], "object": [counted(name="counted")],
    }[training["metric"]]  # fmt: skip
    is_weighted = training["metric"] == "weighted string"
    model.compile(
        getattr(keras.optimizers, training["optimizer"])(0.05, **_OPTIONS[training["option"]]),
        _loss(training),
        metrics=[] if is_weighted else metric,
        weighted_metrics=metric if is_weighted else [],
        jit_compile=training["jit_compile"] == "True",
        steps_per_execution=int(training["steps_per_execution"]),
    )
    return model


def _loss(training: Training) -> Any:
    function_name, class_name, _ = _LOSSES[training["loss"]]
    function, form = getattr(keras.losses, function_name), training["loss by"]
    given = {} if training["reduction"] == "default" else {"reduction": training["reduction"]}

    def own(y_true: Any, y_pred: Any) -> Any:
        return 1.5 * function(y_true, y_pred)

    class Own(keras.losses.Loss):
        def call(self, y_true: Any, y_pred: Any) -> Any:
            return own(y_true, y_pred)

    made = {
        "string": lambda: function_name,
        "object": lambda: getattr(keras.losses, class_name)(**given),
        "function": lambda: function,
        "own function": lambda: own,
        "own class": lambda: Own(**given),
    }
    return made[form]()


def _arrays(training: Training) -> tuple[Any, ...]:
    """Returns inputs, targets, and weights where rows have some."""
    rows, _ = _sizes(training)
    rng = np.random.default_rng(5)
    floats = "float64" if training["precision"] == "float64" else "float32"
    x = rng.normal(size=(rows, _TIMESTEPS, _FEATURES)) + 0.01
    if training["numbers"] == "large":
        x *= 100.0
    elif training["numbers"] == "zero":
        x[::2] = 0.0
    elif training["numbers"] == "NaN in one row":
        x[rows // 2, 1, 0] = np.nan
    if training["mask"] == "timesteps":
        x[np.arange(_TIMESTEPS) >= rng.integers(1, _TIMESTEPS + 1, size=rows)[:, np.newaxis]] = 0.0
    elif training["mask"] == "a whole row":
        x[rows - 1] = 0.0
    shape = (rows, _TIMESTEPS) if training["targets"] == "of timesteps" else (rows,)
    y = {
        "squares": rng.normal(size=(*shape, 1)).astype(floats),
        "classes": rng.integers(0, _CLASSES, size=shape),
    }.get(training["loss"], rng.integers(0, 2, size=(*shape, 2)).astype(floats))
    if training["weights"] in ("none", "of classes"):
        return x.astype(floats), y
    weights = rng.uniform(0.1, 2, size=shape)
    weights[: {"any": 0, "some zero": rows // 2, "all zero": rows}[training["weights"]]] = 0
    return x.astype(floats), y, weights.astype(floats)


def _data(training: Training) -> dict[str, Any]:
    arrays, form = _arrays(training), training["data"]
    _, size = _sizes(training)
    found: dict[str, Any]
    if form == "arrays":
        found = dict(zip(("x", "y", "sample_weight"), arrays, strict=False))
    elif form == "PyDataset":
        found = {"x": Batches(arrays, size)}
    elif form == "generator":
        found = {"x": _forever(Batches(arrays, size))}
    else:
        dataset = tf.data.Dataset.from_tensor_slices(arrays)
        found = {"x": dataset.batch(size, drop_remainder=form.endswith("drop_remainder"))}
    if training["then"] == "validation":
        found["validation_data"] = tuple(one[:5] for one in arrays)
    return found


def _forever(batches: Batches) -> Iterator[Any]:
    while True:
        yield from (batches[index] for index in range(len(batches)))
