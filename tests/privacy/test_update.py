"""Is a private update that of a loop over the drawn examples, in float64, on two replicas?

The oracle draws the same examples and the same noise, and computes the gradient of each example by
stock Keras.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from parity.worlds import local_strategy

import tfdist
from tfdist import testing
from tfdist.communication.workers import Workers
from tfdist.privacy import DPSGD
from tfdist.privacy.draws import Draws
from tfdist.privacy.ruled import ruled_layers

pytestmark = pytest.mark.usefixtures("float64")
_ROWS, _EXPECTED, _STEPS, _NORM, _NOISE, _SEED, _RATE = 20, 2, 8, 0.3, 0.7, 0, 0.5
_L = keras.layers
_PRIVACY = {
    "l2_norm_clip": _NORM, "noise_multiplier": _NOISE, "delta": 1e-3,
    "expected_batch_size": _EXPECTED, "seed": _SEED,
}  # fmt: skip


def _images() -> keras.Model:
    return keras.Sequential(
        [keras.Input((6, 6, 2)), _L.Conv2D(4, 3, strides=2, padding="same"),
         _L.GroupNormalization(2), _L.Activation("relu"), _L.Flatten(),
         _L.Dense(5, "tanh", kernel_regularizer="l2"), _L.Dense(3, "softmax")]
    )  # fmt: skip


def _words() -> keras.Model:
    given = keras.Input((5,), dtype="int32")
    found = _L.Embedding(7, 4, mask_zero=True)(given)
    seen = _L.MultiHeadAttention(2, 3)(found, found)
    found = _L.LayerNormalization()(_L.Add()([found, seen]))
    return keras.Model(given, _L.Dense(3, "softmax")(_L.GlobalAveragePooling1D()(found)))


def _recurrent() -> keras.Model:
    return keras.Sequential(
        [keras.Input((5,), dtype="int32"), _L.Embedding(7, 4, mask_zero=True), _L.LSTM(3),
         _L.Dense(3, "softmax")]
    )  # fmt: skip


def _causal() -> keras.Model:
    return keras.Sequential(
        [keras.Input((6, 2)), _L.Dense(4, "tanh"), _L.Conv1D(3, 2, padding="causal"), _L.Flatten(),
         _L.Dense(3, "softmax")]
    )  # fmt: skip


def _made(
    build: Any, weights: Any = None, scope: Any = None, optimizer: Any = None
) -> keras.Model:
    keras.utils.set_random_seed(1)
    with (scope or local_strategy(2)).scope():
        model = build()
        if weights is not None:
            model.set_weights(weights)
        made = keras.optimizers.SGD(_RATE) if optimizer is None else optimizer()
        model.compile(made, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def _data(model: keras.Model) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng, (given,) = np.random.default_rng(0), model.inputs
    shape = (_ROWS, *given.shape[1:])
    x = rng.integers(0, 7, shape) if "int" in given.dtype else rng.normal(size=shape)
    return x, rng.integers(0, 3, _ROWS), rng.uniform(0.1, 5, _ROWS)


def _draws(noise: float) -> Draws:
    draws = Draws()
    draws.begin(Workers(tf.distribute.get_strategy()), seed=_SEED, scale=noise * _NORM)
    return draws


def _samples(draws: Draws) -> list[np.ndarray]:
    cap = DPSGD(**_PRIVACY).cap(_ROWS)
    q = _EXPECTED / _ROWS
    return [draws.sample(k, population=_ROWS, probability=q, cap=cap) for k in range(_STEPS)]


def _by_hand(model: keras.Model, x: Any, y: Any, weight: Any) -> list[np.ndarray]:
    """Trains a model of one device by NumPy; returns its weights."""
    draws, variables = _draws(_NOISE), model.trainable_variables
    loss = keras.losses.SparseCategoricalCrossentropy()
    sizes = [len(sample) for sample in _samples(draws)]
    assert 0 in sizes
    assert max(sizes) > 2
    for step, sample in enumerate(_samples(draws)):
        sums = [np.zeros(v.shape) for v in variables]
        for row in sample:
            one = slice(row, row + 1)
            with tf.GradientTape() as tape:
                value = loss(y[one], model(x[one], training=True), weight[one])
            values = [v.value for v in variables]
            own = [tf.convert_to_tensor(g).numpy() for g in tape.gradient(value, values)]
            norm = np.sqrt(sum(np.sum(g**2) for g in own))
            sums = [s + g * min(1, _NORM / norm) for s, g in zip(sums, own, strict=True)]
        noise = draws.noise(step, sum(s.size for s in sums))
        parts = np.split(noise, np.cumsum([s.size for s in sums])[:-1])
        for variable, total, part in zip(variables, sums, parts, strict=True):
            gradient = (total + part.reshape(total.shape)) / _EXPECTED
            if variable.regularizer is not None:
                with tf.GradientTape() as tape:
                    value = variable.regularizer(variable.value)
                gradient = gradient + tape.gradient(value, variable.value).numpy()
            variable.assign(variable.numpy() - _RATE * gradient)
    return model.get_weights()


@pytest.mark.parametrize(
    ("build", "is_ruled", "physical"),
    [
        (_images, True, None),
        (_images, True, 3),  # three pieces of two rows on each replica, the last one cut
        # 4 s each, and 6: gradients whose shapes TensorFlow does not know, masks, and a loop whose
        # weights are used many times.
        pytest.param(_causal, False, None, marks=pytest.mark.slow),
        pytest.param(_words, True, 1, marks=pytest.mark.slow),
        pytest.param(_recurrent, False, None, marks=pytest.mark.slow),
    ],
)
def test_updates_are_those_of_a_loop_over_examples(build, is_ruled, physical, logical_cpus):
    keras.utils.set_random_seed(1)
    alone = build()
    weights = alone.get_weights()
    x, y, weight = _data(alone)
    alone.compile(loss="sparse_categorical_crossentropy")
    assert (ruled_layers(alone) is not None) == is_ruled
    model = _made(build, weights)
    assert model.distribute_strategy.num_replicas_in_sync == 2
    tfdist.fit(
        model, x, y, sample_weight=weight, steps_per_epoch=_STEPS, verbose=0,
        privacy=DPSGD(**_PRIVACY, physical_batch_size=physical),
    )
    for own, other in zip(model.get_weights(), _by_hand(alone, x, y, weight), strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-12, atol=1e-13)


class _Noise(_L.Layer):
    """Draws in a way that takes as many numbers as it needs, which are cut to the rows."""

    def __init__(self) -> None:
        super().__init__()
        self.seeds = keras.random.SeedGenerator(1)

    def call(self, x: Any, training: bool = False) -> Any:
        noise = keras.random.truncated_normal(keras.ops.shape(x), seed=self.seeds)
        return x + noise if training else x


def _with_dropout() -> keras.Model:
    return keras.Sequential(
        [keras.Input((4,)), _L.Dense(8, "tanh"), _L.Dropout(0.5), _L.Dense(3, "softmax")]
    )


def _with_dropout_in_a_loop() -> keras.Model:
    return keras.Sequential(
        [keras.Input((4, 1)), _L.LSTM(3), _L.Dropout(0.5), _Noise(), _L.Dense(3, "softmax")]
    )


@pytest.mark.parametrize(
    ("build", "sizes"),
    [
        (_with_dropout, (None, None)),
        # 6 s each: only they see draws in pieces, of any size, and of examples one by one.
        pytest.param(_with_dropout, (4, 3), marks=pytest.mark.slow),
        pytest.param(_with_dropout_in_a_loop, (4, 3), marks=pytest.mark.slow),
    ],
)
def test_random_layers_draw_the_same_on_one_replica_and_on_two(build, sizes, logical_cpus):
    found = []
    strategies = tf.distribute.OneDeviceStrategy("/cpu:0"), local_strategy(2)
    for strategy, size in zip(strategies, sizes, strict=True):
        model = _made(build, scope=strategy)
        x, y, _ = _data(model)
        history = tfdist.fit(
            model, x, y, epochs=2, verbose=0, validation_data=(x, y),
            privacy=DPSGD(**_PRIVACY | {"expected_batch_size": 6, "physical_batch_size": size}),
        )
        found.append((model.get_weights(), history.history))
    (weights, logs), (others, other_logs) = found
    for own, other in zip(weights, others, strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-9, atol=1e-12)
    assert logs.keys() == other_logs.keys() >= {"epsilon", "loss", "val_accuracy"}
    for name, values in logs.items():
        np.testing.assert_allclose(values, other_logs[name], rtol=1e-9)


def test_the_losses_of_two_outputs_add_up_to_the_whole(logical_cpus):
    with local_strategy(2).scope():
        given = keras.Input((4,))
        model = keras.Model(given, {name: _L.Dense(1, name=name)(given) for name in ("a", "b")})
        model.compile("sgd", {"a": "mse", "b": "mae"})
    x = np.random.default_rng(0).normal(size=(_ROWS, 4))
    privacy = DPSGD(**_PRIVACY)
    history = tfdist.fit(
        model, x, {"a": x[:, :1], "b": x[:, 1:2]}, steps_per_epoch=3, verbose=0, privacy=privacy
    ).history
    assert history["loss"][0] == pytest.approx(history["a_loss"][0] + history["b_loss"][0])


class _Weights(keras.callbacks.Callback):
    """Keeps the weights after each step."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[np.ndarray] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.found.append(self.model.get_weights()[0].copy())


def test_an_example_shows_in_the_noise_as_much_as_it_may(logical_cpus):
    """The example is in every step, so an update shifts by the norm, against a known spread.

    Sees an error of 6 % in either of them. An error in both, by the same factor, shows in the
    comparison with a loop.
    """
    steps, noise, width = 60, 0.05, 200
    with local_strategy(2).scope():
        model = keras.Sequential([keras.Input((width,)), _L.Dense(1, use_bias=False)])
        model.compile(keras.optimizers.SGD(1.0), "mae")
    x = np.zeros((2, width))
    x[0, 0] = 50.0  # the gradient of its loss has a norm of 50, and is clipped to 0.3
    kept = _Weights()
    tfdist.fit(
        model, x, np.full((2, 1), -1e6), steps_per_epoch=steps, callbacks=[kept], verbose=0,
        privacy=DPSGD(**_PRIVACY | {"noise_multiplier": noise, "delta": 0.1}),
    )
    updates = -np.diff(np.stack(kept.found)[:, :, 0], axis=0) * 2
    shift, spread = updates[:, 0].mean(), updates[:, 1:].std()
    assert updates.shape == (steps - 1, width)
    assert shift == pytest.approx(_NORM, rel=4 * noise / np.sqrt(steps))
    assert spread == pytest.approx(noise * _NORM, rel=0.02)
    assert shift / spread == pytest.approx(1 / noise, rel=0.06)


def test_bfloat16_layers_are_clipped_and_summed_in_float32(logical_cpus):
    with local_strategy(2).scope():
        model = keras.Sequential(
            [keras.Input((4,)), _L.Dense(8, "relu", dtype="mixed_bfloat16"),
             _L.Dense(3, "softmax", dtype="float32")]
        )  # fmt: skip
        model.compile(keras.optimizers.SGD(1.0), "sparse_categorical_crossentropy")
    before = model.get_weights()
    x, y, _ = _data(model)
    tfdist.fit(
        model, 10 * x, y, steps_per_epoch=1, verbose=0,
        privacy=DPSGD(**_PRIVACY | {"noise_multiplier": 0.0, "expected_batch_size": 20}),
    )
    moved = np.concatenate(
        [(a - b).ravel() for a, b in zip(model.get_weights(), before, strict=True)]
    )
    assert 0 < np.linalg.norm(moved) <= _NORM * (1 + 1e-5)


def _adam() -> Any:
    return keras.optimizers.Adam(0.05, global_clipnorm=0.2)


def _lamb() -> Any:
    return keras.optimizers.Lamb(0.05)


# In slices and by owner, and in pieces of the batch, whose sums are held in parts alone.
_PARTED = [(_adam, None), (_lamb, None), (_adam, 3)]


def _in_parts(optimizer: Any, scope: Any, physical: int | None = None, **given: Any) -> list[Any]:
    """Returns the weights and the epsilons of a private training."""
    model = _made(_images, scope=scope, optimizer=optimizer)
    x, y, weight = _data(model)
    history = tfdist.fit(
        model, x, y, sample_weight=weight, steps_per_epoch=_STEPS, verbose=0,
        privacy=DPSGD(**_PRIVACY, physical_batch_size=physical), **given,
    )
    return [model.get_weights(), history.history["epsilon"]]


def _train_on_two_workers() -> list[Any]:
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    model = _made(_images, scope=tfdist.get_strategy("cpu"))
    x, y, weight = _data(model)
    for physical in (None, 3):
        tfdist.fit(
            model, x, y, sample_weight=weight, steps_per_epoch=_STEPS, verbose=0,
            privacy=DPSGD(**_PRIVACY, physical_batch_size=physical),
        )
    secret = DPSGD(**_PRIVACY | {"seed": None})
    own = model.get_weights()
    tfdist.fit(model, x, y, steps_per_epoch=2, verbose=0, privacy=secret)
    strategy = tfdist.get_strategy("cpu")
    assert strategy.num_replicas_in_sync == 2
    parts = [_in_parts(one, strategy, size, sharded_optimizer=True) for one, size in _PARTED]
    return [own, model.get_weights(), parts]


@pytest.mark.slow  # 34 s: the only test in which processes share a secret, and sum over a network
def test_two_workers_train_as_one_device_does(logical_cpus):
    first, second = testing.run_workers(_train_on_two_workers, workers=2, timeout_secs=200)
    alone = _made(_images, scope=tf.distribute.OneDeviceStrategy("/cpu:0"))
    x, y, weight = _data(alone)
    alone.optimizer = None
    _by_hand(alone, x, y, weight)
    expected = _by_hand(alone, x, y, weight)
    for own, other, wanted in zip(first[0], second[0], expected, strict=True):
        np.testing.assert_array_equal(own, other)
        np.testing.assert_allclose(own, wanted, rtol=1e-9, atol=1e-12)
    for own, other in zip(first[1], second[1], strict=True):  # from the system's random source
        np.testing.assert_array_equal(own, other)
    for number, (optimizer, _) in enumerate(_PARTED):
        scope = tf.distribute.OneDeviceStrategy("/cpu:0")
        weights, epsilons = _in_parts(optimizer, scope)
        for found, told in (first[2][number], second[2][number]):
            assert told == epsilons
            for own, wanted in zip(found, weights, strict=True):
                np.testing.assert_allclose(own, wanted, rtol=1e-9, atol=1e-12)
