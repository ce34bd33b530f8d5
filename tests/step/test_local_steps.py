"""Do replicas that train apart go on from the mean of their weights? Stock Keras is the oracle.

One step a round is plain data parallelism: `keras.Model.fit` on one device. For several, each
replica is a stock model of its own on one device, and their weights are averaged by NumPy.
"""

from __future__ import annotations

import contextlib
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfdist
from tfdist import testing

ROWS, BATCH, EPOCHS = 26, 7, 2  # an epoch of 7, 7, 7 and 5 rows: no two replicas have as many


def momentum() -> keras.optimizers.Optimizer:
    return keras.optimizers.SGD(0.1, momentum=0.9)


def nesterov() -> keras.optimizers.Optimizer:
    return keras.optimizers.SGD(0.7, momentum=0.9, nesterov=True)


def build(optimizer: Any = momentum, **options: Any) -> keras.Model:
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((4,), dtype="int32"),
            keras.layers.Embedding(9, 5, mask_zero=True),
            keras.layers.SimpleRNN(4),
            keras.layers.Dense(3, activation="softmax", kernel_regularizer="l2"),
        ]
    )
    model.compile(optimizer(), "sparse_categorical_crossentropy", metrics=["accuracy"], **options)
    return model


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 9, (ROWS, 4)).astype("int32"), rng.integers(0, 3, ROWS)


def train(model: keras.Model, **kwargs: Any) -> keras.callbacks.History:
    x, y = data()
    kwargs = {"batch_size": BATCH, "epochs": EPOCHS, "shuffle": False, "verbose": 0, **kwargs}
    return tfdist.fit(model, x, y, **kwargs)


def states(model: keras.Model) -> list[np.ndarray]:
    return [np.asarray(variable) for variable in [*model.variables, *model.optimizer.variables]]


def apart(replicas: int, steps: int, optimizer: Any = momentum, outer: Any = None) -> list[Any]:
    """Returns the states after local steps of stock models, each on one device."""
    x, y = data()
    models = [build(optimizer) for _ in range(replicas)]
    outer = outer() if outer else None
    begins = list(range(0, ROWS, BATCH))
    for number in range(EPOCHS * len(begins)):
        begin = begins[number % len(begins)]
        if number % len(begins) % steps == 0:
            rows, start = np.zeros(replicas), [np.array(v) for v in models[0].trainable_variables]
        size = min(BATCH, ROWS - begin)
        for replica, model in enumerate(models):
            first, end = (begin + -(-r * size // replicas) for r in (replica, replica + 1))
            model.train_on_batch(x[first:end], y[first:end])
            rows[replica] += end - first
        is_last = number % len(begins) == len(begins) - 1
        if is_last or (number % len(begins) + 1) % steps == 0:
            _average(models, rows / rows.sum(), start, outer)
    return states(models[0])


def _average(models: list[Any], shares: Any, start: list[Any], outer: Any) -> None:
    of_models = [states(model) for model in models]
    pairs = zip(*of_models, strict=True)
    means = [sum(w * s for w, s in zip(shares, each, strict=True)) for each in pairs]
    for model in models:
        kept = [*model.variables, *model.optimizer.variables]
        for variable, mean in zip(kept, means, strict=True):
            if variable.dtype.startswith("float"):
                variable.assign(mean)
    if outer is None:
        return
    first = models[0]
    means = [np.array(variable) for variable in first.trainable_variables]
    for variable, value in zip(first.trainable_variables, start, strict=True):
        variable.assign(value)
    gradients = [tf.constant(value - mean) for value, mean in zip(start, means, strict=True)]
    outer.apply(gradients, first.trainable_variables)
    for model in models[1:]:
        for variable, value in zip(model.variables, first.variables, strict=True):
            variable.assign(np.array(value))


def assert_close(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-12)


pytestmark = pytest.mark.usefixtures("logical_cpus", "float64")


@contextlib.contextmanager
def float64():
    for dtype in ("float64", "float32"):
        keras.config.set_floatx(dtype)
        keras.config.set_dtype_policy(dtype)
        if dtype == "float64":
            yield


def scope(replicas: int) -> Any:
    strategy = tfdist.get_strategy(f"{replicas}xcpu", cluster=None)
    assert strategy.num_replicas_in_sync == replicas > 1
    return strategy.scope()


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_one_step_a_round_is_plain_data_parallelism(replicas):
    with scope(replicas):
        model = build()
    history = train(model, local_steps=1)
    one = build()
    x, y = data()
    expected = one.fit(x, y, batch_size=BATCH, epochs=EPOCHS, shuffle=False, verbose=0)
    assert_close(states(model), states(one))
    for name, values in expected.history.items():
        np.testing.assert_allclose(history.history[name], values, rtol=0, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("replicas", "steps", "optimizer", "outer"),
    [
        (2, 3, momentum, nesterov),
        pytest.param(2, 2, momentum, None, marks=pytest.mark.slow),
        pytest.param(4, 3, keras.optimizers.Adam, None, marks=pytest.mark.slow),
        pytest.param(4, 2, keras.optimizers.Adam, nesterov, marks=pytest.mark.slow),
    ],
)
def test_several_steps_are_those_of_models_apart(replicas, steps, optimizer, outer):
    with scope(replicas):
        model = build(optimizer)
    train(model, local_steps=steps, outer_optimizer=outer and outer())
    assert_close(states(model), apart(replicas, steps, optimizer, outer))
    for variable in model.variables:  # and all replicas hold the same
        first, *others = (part.numpy() for part in variable.value.values)
        for other in others:
            np.testing.assert_array_equal(first, other)


@pytest.mark.slow
def test_inside_the_scope_it_is_the_same():
    with scope(2):
        model = build()
        train(model, local_steps=3, outer_optimizer=nesterov())
    with scope(2):
        other = build()
    train(other, local_steps=3, outer_optimizer=nesterov())
    assert_close(states(model), states(other))


@pytest.mark.slow
def test_it_is_something_else_than_one_device():
    with scope(2):
        model = build()
    train(model, local_steps=3)
    one = build()
    one.fit(*data(), batch_size=BATCH, epochs=EPOCHS, shuffle=False, verbose=0)
    gap = max(abs(a - b).max() for a, b in zip(states(model), states(one), strict=True))
    assert gap > 1e-4  # else the tests above could not tell


def _on_a_worker() -> list[list[float]]:
    with float64():
        strategy = tfdist.get_strategy("cpu")
        assert strategy.num_replicas_in_sync == 2
        with strategy.scope():
            model = build()
        train(model, local_steps=3, outer_optimizer=nesterov())
        return [value.tolist() for value in states(model)]


@pytest.mark.timeout(240)
@pytest.mark.slow
def test_two_workers():
    found = testing.run_workers(_on_a_worker, workers=2, timeout_secs=200)
    assert found[0] == found[1]
    assert_close([np.array(value) for value in found[0]], apart(2, 3, momentum, nesterov))


@pytest.mark.slow
def test_who_looks_at_batches_sees_whole_rounds():
    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            kernel = self.model.layers[-1].kernel.value.values
            seen.append((batch, np.array_equal(*[part.numpy() for part in kernel])))

    seen = []
    with scope(2):
        model = build()
    train(model, local_steps=3, callbacks=[Look()])
    assert [are_alike for _, are_alike in seen] == [True] * 4
    assert_close(states(model), apart(2, 3))


class Stop(Exception):
    """Ends a run in its midst."""


@pytest.mark.slow
@pytest.mark.parametrize("save_every", [1, None])
def test_a_resumed_run_has_the_same_bits(tmp_path, save_every):
    class StopAt(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                raise Stop

    def run(folder, *callbacks):
        with scope(2):
            model = build()
        options = {"checkpoint_dir": folder, "save_every": save_every, "callbacks": callbacks}
        train(model, epochs=3, local_steps=3, outer_optimizer=nesterov(), **options)
        return [value.tobytes() for value in states(model)]

    whole = run(tmp_path / "whole")
    with pytest.raises(Stop):
        run(tmp_path / "parts", StopAt())
    assert run(tmp_path / "parts") == whole


@pytest.mark.slow
def test_another_number_of_steps_is_refused_by_a_checkpoint(tmp_path):
    for steps in (2, 3):
        with scope(2):
            model = build()
        refused = pytest.raises(ValueError, match="local_steps: 2 in the checkpoint, 3 here")
        with refused if steps == 3 else contextlib.nullcontext():
            train(model, local_steps=steps, checkpoint_dir=tmp_path)


def constrained() -> keras.Model:
    model = build()
    model.layers[-1].kernel.constraint = keras.constraints.NonNeg()
    return model


def options(**kwargs: Any) -> Any:
    return lambda: build(lambda: keras.optimizers.SGD(0.1, **kwargs))


@pytest.mark.parametrize(
    ("make", "kwargs", "match"),
    [
        (build, {"local_steps": 0}, "local_steps=0 must be a whole number"),
        (build, {"local_steps": True}, "local_steps=True must be"),
        (build, {"local_steps": 2, "outer_optimizer": "sgd"}, "must be a Keras optimizer"),
        (build, {"outer_optimizer": "sgd"}, "without local_steps"),
        (build, {"local_steps": 2, "on_nan": "skip"}, "on_nan='skip'"),
        (options(use_ema=True), {"local_steps": 2}, "use_ema"),
        (options(gradient_accumulation_steps=2), {"local_steps": 2}, "gradient_accumulation_steps"),
        (constrained, {"local_steps": 2}, "constraints"),
        (
            lambda: build(lambda: keras.optimizers.LossScaleOptimizer(momentum())),
            {"local_steps": 2},
            "LossScaleOptimizer",
        ),
    ],
)
def test_what_cannot_be_is_refused(make, kwargs, match):
    with scope(2):
        model = make()
    before = states(model)
    with pytest.raises(ValueError, match=match):
        train(model, **kwargs)
    assert_close(states(model)[: len(before)], before)
