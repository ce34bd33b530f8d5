"""tests of tfdist/step/tpu_step.py: the program of a TPU, executed, gives what one device gives

The program that preflight compiles is executed for two replicas on the CPU, each with other rows,
and its weights, loss and metric states are compared with stock `keras.Model.fit` on one device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import xla_replicas
from xla_replicas import Replicas

from tfdist.step import tpu_step
from tfdist.tpu.program import Program, make_program
from tfdist.tpu.scopes import Origins

layers = keras.layers
Build = Callable[[], keras.Model]
_ROWS, _STEPS, _REPLICAS = 4, 4, 2
_TOLERANCE = 2e-5  # float32
_SPARSE = "sparse_categorical_crossentropy"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def replicas(pytestconfig: pytest.Config) -> Iterator[Replicas]:
    with xla_replicas.started(pytestconfig, _REPLICAS) as started:
        yield started


def _compiled(model: keras.Model, optimizer: Any, *, is_jit: bool = False) -> keras.Model:
    # Keras's own step on one device is not compiled: the oracle shares nothing with the program.
    model.compile(optimizer, _SPARSE, metrics=["accuracy"], jit_compile=is_jit)
    return model


def _adam(**options: Any) -> keras.optimizers.Optimizer:
    # The epsilon keeps Adam from blowing up the rounding of gradients that are all but 0.
    return keras.optimizers.Adam(1e-2, epsilon=1e-3, **options)


def _dense(optimizer: Any) -> keras.Model:
    parts = [layers.Dense(16, activation="tanh"), layers.Dense(3, activation="softmax")]
    return _compiled(keras.Sequential([keras.Input((8,)), *parts]), optimizer)


def _clipped() -> keras.Model:
    return _dense(_adam(global_clipnorm=0.05))


def _accumulating() -> keras.Model:
    return _dense(_adam(global_clipnorm=0.05, gradient_accumulation_steps=2))


def _averaged() -> keras.Model:
    return _dense(_adam(use_ema=True, ema_momentum=0.8, ema_overwrite_frequency=2))


def _loss_scaled() -> keras.Model:
    inner = keras.optimizers.SGD(0.1, momentum=0.9)
    return _dense(keras.optimizers.LossScaleOptimizer(inner, dynamic_growth_steps=2))


def _cnn() -> keras.Model:
    parts = [
        layers.Reshape((2, 4, 1)), layers.Conv2D(4, 2),
        layers.BatchNormalization(synchronized=True), layers.ReLU(),
        layers.GlobalAveragePooling2D(), layers.Dense(3, activation="softmax"),
    ]  # fmt: skip
    return _compiled(keras.Sequential([keras.Input((8,)), *parts]), _adam())


def _dropping() -> keras.Model:
    parts = [layers.Dense(16, activation="tanh"), layers.Dropout(0.5)]
    parts.append(layers.Dense(3, activation="softmax"))
    # XLA's random numbers are others than those of TensorFlow's kernels, on one device too.
    return _compiled(keras.Sequential([keras.Input((8,)), *parts]), _adam(), is_jit=True)


def _embedding() -> keras.Model:
    """Rows of an embedding alone are updated, which clipping and moments show."""
    tokens = layers.Lambda(lambda x: tf.cast(tf.abs(x) * 10, tf.int32) % 50)
    parts = [tokens, layers.Embedding(50, 4), layers.Flatten(), layers.Dense(3, "softmax")]
    return _compiled(
        keras.Sequential([keras.Input((8,)), *parts]), _adam(global_clipnorm=0.05)
    )


_BUILDS = [
    _clipped, _accumulating, _averaged, _loss_scaled, _cnn, _dropping, _embedding,
]  # fmt: skip


def _data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    count = _ROWS * _REPLICAS * _STEPS
    x = rng.normal(size=(count, 8)).astype("float32")
    return x, rng.integers(0, 3, size=count).astype("int32")


def _expected(build: Build) -> tuple[keras.Model, float]:
    """Returns a model that stock Keras has trained on one device, and its loss."""
    keras.utils.set_random_seed(11)
    model = build()
    x, y = _data()
    history = model.fit(x, y, batch_size=_ROWS * _REPLICAS, shuffle=False, verbose=0)
    assert not tf.distribute.has_strategy()
    return model, history.history["loss"][0]


def _variables(model: keras.Model) -> list[keras.Variable]:
    found = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    return list({id(variable): variable for variable in found}.values())


def _trained(
    build: Build, replicas: Replicas, *, steps_per_execution: int = 1
) -> tuple[list[keras.Variable], list[list[np.ndarray]]]:
    """Returns the variables of a model, and their values on each replica after all steps."""
    keras.utils.set_random_seed(11)
    model = build()
    specs = (tf.TensorSpec((_ROWS, 8)), tf.TensorSpec((_ROWS,), tf.int32))
    program = make_program(
        model, specs, origins=Origins(), num_replicas=_REPLICAS, steps=steps_per_execution
    )
    variables = _variables(model)
    states = [[np.array(v) for v in variables] for _ in range(_REPLICAS)]
    number, aliases = replicas.compile(program.lower())
    captured = _captured(program, variables)
    for rows in _rows_of_replicas(steps_per_execution):
        first = len(rows[0])
        arguments = [
            [*own, *(state[index] for index in captured)]
            for own, state in zip(rows, states, strict=True)
        ]
        for state, results in zip(states, replicas.execute(number, arguments), strict=True):
            for result, argument in aliases.items():
                state[captured[argument - first]] = results[result]
    return variables, states


def _captured(program: Program, variables: list[keras.Variable]) -> list[int]:
    """Returns which variable each captured argument of the program is."""
    indices = {id(variable.value.handle): index for index, variable in enumerate(variables)}
    return [indices[id(handle)] for handle in program.concrete.captured_inputs]


def _rows_of_replicas(steps: int) -> Iterator[list[list[np.ndarray]]]:
    """Gives the rows of each replica, for so many steps at once."""
    parts = [
        values.reshape(_STEPS, _REPLICAS, _ROWS, *values.shape[1:]).swapaxes(1, 0)
        for values in _data()
    ]
    for start in range(0, _STEPS, steps):
        rows = [[p[r, start : start + steps] for p in parts] for r in range(_REPLICAS)]
        assert not (rows[0][0] == rows[1][0]).any(), "the replicas get other rows"
        yield rows if steps > 1 else [[values[0] for values in own] for own in rows]


def _deviation(build: Build, replicas: Replicas, **options: Any) -> float:
    """Returns the largest difference between one device and two replicas, in any variable."""
    model, loss = _expected(build)
    variables, states = _trained(build, replicas, **options)
    metrics = {id(variable) for variable in variables[-len(model.metrics_variables) :]}
    found = [abs(_loss_of(variables, states) - loss)]
    for index, (variable, expected) in enumerate(zip(variables, _variables(model), strict=True)):
        values = [np.asarray(state[index], np.float64) for state in states]
        if id(variable) in metrics:
            values = [sum(values)]
        found += [float(np.abs(value - np.array(expected)).max()) for value in values]
    return max(found)


def _loss_of(variables: list[keras.Variable], states: list[list[np.ndarray]]) -> float:
    total, count = (
        sum(float(state[[v.path for v in variables].index(f"loss/{name}")]) for state in states)
        for name in ("total", "count")
    )
    assert count == _ROWS * _REPLICAS * _STEPS
    return total / count


@pytest.mark.parametrize("build", _BUILDS)
def test_two_replicas_give_what_one_device_gives(build: Build, replicas: Replicas) -> None:
    assert replicas.num_replicas == 2
    assert _deviation(build, replicas) < _TOLERANCE


@pytest.mark.parametrize("build", [_clipped, _accumulating, _dropping])
def test_many_steps_of_one_execution(build: Build, replicas: Replicas) -> None:
    assert _deviation(build, replicas, steps_per_execution=_STEPS) < _TOLERANCE


def _not_summed(gradients: Any, collectives: Any, reduction: Any) -> list[Any]:
    return list(gradients)


def _doubled(gradients: Any, collectives: Any, reduction: Any) -> list[Any]:
    once = _sum_gradients(gradients, collectives, reduction)
    summed = _sum_gradients(once, collectives, reduction)
    return list(summed)


def _clipped_before(gradients: Any, collectives: Any, reduction: Any) -> list[Any]:
    clipped, _ = tf.clip_by_global_norm(list(gradients), 0.05)
    return _sum_gradients(clipped, collectives, reduction)


def _as_a_table(gradients: Any, collectives: Any, reduction: Any) -> list[Any]:
    return _sum_gradients(list(map(tf.convert_to_tensor, gradients)), collectives, reduction)


_sum_gradients = tpu_step.sum_gradients


@pytest.mark.parametrize(
    ("build", "wrong"),
    [
        (_dropping, _not_summed), (_loss_scaled, _doubled), (_clipped, _clipped_before),
        (_embedding, _as_a_table),
    ],
)  # fmt: skip
def test_it_shows_where_it_would_not(
    build: Build, wrong: Any, replicas: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tpu_step, "sum_gradients", wrong)
    assert _deviation(build, replicas) > 20 * _TOLERANCE
