"""Are batches padded to one shape, is a step traced for it once, and is refused what cannot be?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from parity import worlds

import tfdist
from tfdist.communication.share import Share
from tfdist.data.adapters import make_source
from tfdist.data.padding import pad
from tfdist.data.shapes import Padding

layers = keras.layers
_X, _Y = np.arange(10.0, dtype="float32").reshape(5, 2), np.arange(5)


class Recorder(layers.Layer):
    """Takes note of the shapes that it is traced with."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: Any = []

    def call(self, x: Any) -> Any:
        self.shapes.append(tuple(x.shape))
        return x


def _model(*middle: Any, strategy: Any = None, **options: Any) -> keras.Model:
    strategy = strategy or worlds.local_strategy(2)
    assert strategy.num_replicas_in_sync > 1
    with strategy.scope():
        model = keras.Sequential([keras.Input((2,)), *[make() for make in middle], layers.Dense(1)])
        model.compile(**{"optimizer": "sgd", "loss": "mse", **options})
    return model


def _parts(source: Any) -> list[Any]:
    stream = source.stream(0, 0).take(source.num_batches)
    return [(int(size), [part[0].numpy().tolist() for part in parts]) for size, parts in stream]


def test_last_row_is_repeated() -> None:
    source = make_source(_X, _Y, share=Share(0, 2, 2), batch_size=4)
    padded = pad(source, Share(0, 2, 2))
    assert padded.padding == Padding(rows=2, is_needed=True)
    whole = padded.stream(0, 0).element_spec[1]
    assert [leaf.shape.as_list() for leaf in tf.nest.flatten(whole)] == [[2, 2], [2]] * 2
    first, last = [0.0, 1.0], [8.0, 9.0]
    assert _parts(padded) == [
        (4, [[first, [2.0, 3.0]], [[4.0, 5.0], [6.0, 7.0]]]),
        (1, [[last, last], [last, last]]),
    ]


@pytest.mark.parametrize(
    ("batch_size", "replicas", "expected"),
    [(5, 1, Padding(5, False)), (5, 2, Padding(3, True)), (4, 2, Padding(2, True)),
     (32, 2, Padding(16, True)), (1, 4, Padding(1, True))],
)
def test_rows_of_arrays(batch_size: int, replicas: int, expected: Padding) -> None:
    share = Share(0, replicas, replicas)
    source = make_source(_X, _Y, share=share, batch_size=batch_size)
    assert pad(source, share).padding == expected


def _generator() -> Any:
    yield _X[:4], _Y[:4]
    yield _X[4:], _Y[4:]


_SPEC = (tf.TensorSpec([None, 2]), tf.TensorSpec([None], tf.int64))
_BATCHED = tf.data.Dataset.from_tensor_slices


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: _BATCHED((_X, _Y)).shuffle(5).batch(4).prefetch(1), Padding(2, True)),
        (lambda: _BATCHED((_X, _Y)).batch(4, drop_remainder=True), Padding(2, False)),
        (lambda: _BATCHED((_X, _Y)).batch(3, drop_remainder=True), Padding(2, True)),
        (lambda: tf.data.Dataset.from_generator(_generator, output_signature=_SPEC),
         Padding(2, True)),
        (_generator, Padding(2, True)),
    ],
    ids=["batch", "fixed", "fixed, uneven", "first batch", "generator"],
)
def test_rows_of_streams(make: Callable[[], Any], expected: Padding) -> None:
    source = make_source(make(), share=Share(0, 2, 2))
    padded = pad(source, Share(0, 2, 2))
    assert padded.padding == expected
    sizes = [int(size) for size, *_ in padded.stream(0, 0)]
    assert sizes == ([4, 1] if not source.is_even else sizes), sizes


def test_larger_batch_later_is_an_error() -> None:
    def growing() -> Any:
        yield _X[:2], _Y[:2]
        yield _X, _Y

    dataset = tf.data.Dataset.from_generator(growing, output_signature=_SPEC)
    with pytest.raises(Exception, match="expected to have 2 rows"):
        tfdist.fit(_model(), dataset, static_shapes=True, verbose=0)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_traces_once_with_static_shapes(jit_compile: bool) -> None:
    x = np.random.default_rng(0).normal(size=(22, 2)).astype("float32")
    with worlds.local_strategy(2).scope():
        recorder = Recorder()
    model = _model(lambda: recorder, jit_compile=jit_compile)
    recorder.shapes.clear()
    tfdist.fit(model, x, x[:, :1], batch_size=7, epochs=3, static_shapes=True, verbose=0)
    in_steps = [shape for shape in recorder.shapes if shape[0] is not None]
    # Each replica once; where it is compiled once more before, to see what it sums: jit_compile.py.
    assert in_steps == [(4, 2)] * (4 if jit_compile else 2)
    tfdist.fit(model, x[:20], x[:20, :1], batch_size=7, static_shapes=True, verbose=0)
    assert [shape for shape in recorder.shapes if shape[0] is not None] == in_steps
    recorder.shapes.clear()
    assert tfdist.predict(model, x, batch_size=7, static_shapes=True, verbose=0).shape == (22, 1)
    assert set(recorder.shapes) == {(4, 2)}


def test_one_replica_pads_as_well() -> None:
    x = np.random.default_rng(0).normal(size=(7, 2))
    given = {"x": x, "y": x[:, :1], "batch_size": 4, "epochs": 2, "shuffle": False, "verbose": 0}

    def trained(fit: Callable[[keras.Model], Any]) -> list[Any]:
        keras.utils.set_random_seed(3)
        kinds = [layers.Dense, layers.Dropout, layers.BatchNormalization, layers.Dense]
        made = [kind(*arguments, dtype="float64") for kind, arguments in
                zip(kinds, [[3], [0.4], [], [1]], strict=True)]
        model = keras.Sequential([keras.Input((2,), dtype="float64"), *made])
        loss = keras.losses.MeanSquaredError(dtype="float64")
        model.compile("sgd", loss)
        history = fit(model)
        return [*model.get_weights(), np.float32(history.history["loss"])]

    stock = trained(lambda model: model.fit(**given))
    padded = trained(lambda model: tfdist.fit(model, **given, static_shapes=True))
    for mine, other in zip(padded, stock, strict=True):
        tolerance = 1e-9 if mine.dtype == np.float64 else 1e-6  # the tracker of the loss
        np.testing.assert_allclose(mine, other, rtol=0, atol=tolerance)


class Adding(layers.Layer):
    def call(self, x: Any) -> Any:
        self.add_loss(keras.ops.mean(x))
        return x


class Shuffling(layers.Layer):
    def call(self, x: Any) -> Any:
        return keras.random.shuffle(x)


class OwnMetric(keras.metrics.Metric):
    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        pass

    def result(self) -> Any:
        return 0.0


class OwnLoss(keras.Model):
    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        return super().compute_loss(*args, **kwargs)


def _own_loss() -> keras.Model:
    with worlds.local_strategy(2).scope():
        inputs = keras.Input((2,))
        model = OwnLoss(inputs, layers.Dense(1)(inputs))
        model.compile("sgd", "mse")
    return model


def _scalar_loss(y_true: Any, y_pred: Any) -> Any:
    return keras.ops.mean(keras.ops.square(y_true - y_pred))


def _squared_mean(output: Any) -> Any:
    return keras.ops.square(keras.ops.mean(output))


_MIXING = [
    (lambda: _model(lambda: Adding(name="adding")), "'adding'.*add_loss"),
    (lambda: _model(loss=_scalar_loss), "loss '_scalar_loss' makes one number"),
    (lambda: _model(metrics=[OwnMetric(name="own")]), "metric 'own'"),
    (lambda: _model(metrics=[_scalar_loss]), "metric '_scalar_loss' makes one number"),
    (lambda: _model(lambda: Shuffling()), "keras.random.shuffle"),
    (_own_loss, r"OwnLoss.compute_loss is your own"),
    (lambda: _model(lambda: layers.Dense(2, name="even", activity_regularizer=_squared_mean)),
     "'even'.*activity regularizer"),
]


@pytest.mark.parametrize(("build", "message"), _MIXING)
def test_what_mixes_examples_needs_full_batches(build: Callable[[], Any], message: str) -> None:
    model, x = build(), np.ones((7, 2), "float32")
    # The check of the first step pads nothing, and refuses the last of them for what it is.
    options = {"batch_size": 4, "static_shapes": True, "verbose": 0, "check": False}
    with pytest.raises(ValueError, match=message):
        tfdist.fit(model, x, x[:, :1], **options)
    history = tfdist.fit(model, x[:4], x[:4, :1], **options)
    assert np.isfinite(history.history["loss"]).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: {"x": _X, "y": _X[:, :1], "already_sharded": True}, "already_sharded"),
        (lambda: {"x": tf.data.Dataset.from_tensors(
            (tf.ragged.constant([[1.0], [1.0, 2.0]]), tf.zeros([2])))}, "dense data"),
        (lambda: {"x": tf.data.Dataset.from_generator(
            lambda: iter([(_X, _Y)]),
            output_signature=(tf.TensorSpec([None, None]), _SPEC[1]))}, "of one shape"),
        (lambda: {"x": tf.data.Dataset.from_generator(_generator, output_signature=_SPEC)
                  .shuffle(2)}, "does not say it"),
    ],
    ids=["already_sharded", "ragged", "open dimension", "unknown size"],
)
def test_refused(make: Callable[[], dict[str, Any]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tfdist.fit(_model(), static_shapes=True, verbose=0, **make())
