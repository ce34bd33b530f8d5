"""Do outputs come back in input order, of every kind, however many batches run at a time?"""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfdist
from tfdist.loop.outputs import make_output_loop

WORLDS = ("cpu", "2xcpu")
X = np.random.default_rng(0).normal(size=(23, 5)).astype("float32")


class Seen(keras.callbacks.Callback):
    """Listens to batches of predictions."""

    def __init__(self):
        super().__init__()
        self.events = []

    def on_predict_batch_begin(self, batch, logs=None):
        self.events.append(batch)

    def on_predict_batch_end(self, batch, logs=None):
        self.events.append((batch, np.shape(logs["outputs"])))




def model_of(build, world, **options):
    with tfdist.get_strategy(world).scope():
        model = build()
        model.compile(**options)
    return model


def dense():
    return keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])


def many():
    inputs = keras.Input((5,))
    middle = keras.layers.Dense(4)(inputs)
    return keras.Model(inputs, {"a": middle, "b": [keras.layers.Dense(2)(middle), inputs]})


def one_number_a_step():
    """Outputs as long as the sentence, and so of another shape in each batch."""
    return keras.Sequential([keras.Input((None, 2)), keras.layers.Dense(1)])


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("build", [dense, many])
@pytest.mark.parametrize("options", [{}, {"run_eagerly": True}, {"steps_per_execution": 3}])
def test_rows_are_those_of_keras(world, build, options):
    model = model_of(build, world, **options)
    rows = tfdist.predict(model, X, batch_size=4, verbose=0)
    expected = model(X)
    keras.tree.assert_same_structure(rows, expected)
    for mine, theirs in zip(keras.tree.flatten(rows), keras.tree.flatten(expected), strict=True):
        assert isinstance(mine, np.ndarray)
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Your input ran out of data")  # Keras says so of any generator
@pytest.mark.parametrize("world", WORLDS)
def test_outputs_whose_shape_differs_come_batch_by_batch(world):
    model = model_of(one_number_a_step, world)
    batches = [np.ones((2, steps, 2), "float32") for steps in (3, 3, 1)]
    data = tf.data.Dataset.from_generator(
        lambda: iter(batches), output_signature=tf.TensorSpec([None, None, 2])
    )
    rows, expected = tfdist.predict(model, data, verbose=0), model.predict(data, verbose=0)
    assert isinstance(rows, tf.RaggedTensor)
    np.testing.assert_allclose(rows.flat_values, expected.flat_values, rtol=1e-5, atol=1e-6)
    assert [len(row) for row in rows.to_list()] == [3, 3, 3, 3, 1, 1]


@pytest.mark.parametrize("world", WORLDS)
def test_another_number_of_rows_traces_nothing_anew(world):
    model = model_of(dense, world)
    traces = []
    call = model.call

    def counted(*args, **kwargs):
        traces.append(1)
        return call(*args, **kwargs)

    model.call = counted
    tfdist.predict(model, X, batch_size=4, verbose=0)
    first = len(traces)
    for rows in (7, 1):
        assert tfdist.predict(model, X[:rows], batch_size=4, verbose=0).shape == (rows, 3)
    assert len(traces) == first > 0


def test_lengths_that_differ_trace_once():
    shapes = []

    def step(batch):
        shapes.append(batch.shape)
        return batch + 1

    batches = [np.ones((2, steps), "float32") for steps in (3, 5, 4)]
    data = tf.data.Dataset.from_generator(
        lambda: iter(batches), output_signature=tf.TensorSpec([2, None])
    )
    loop = make_output_loop(step, agree=None, joins=False)
    ran, outputs = loop(iter(data), 5)
    assert (ran, [part.shape[1] for part in outputs]) == (3, [3, 5, 4])
    assert [shape.as_list() for shape in shapes] == [[2, None]]


@pytest.mark.parametrize("steps_per_execution", [1, 2])
def test_listeners_see_each_batch(steps_per_execution):
    model = model_of(dense, "2xcpu", steps_per_execution=steps_per_execution)
    mine, theirs = Seen(), Seen()
    tfdist.predict(model, X, batch_size=8, verbose=0, callbacks=[mine])
    alone = dense()
    alone.compile(steps_per_execution=steps_per_execution)
    alone.predict(X, batch_size=8, verbose=0, callbacks=[theirs])
    assert mine.events == theirs.events


def test_a_callback_can_stop_it():
    class Stop(Seen):
        def on_predict_batch_end(self, batch, logs=None):
            self.model.stop_predicting = True

    model = model_of(dense, "2xcpu")
    rows = tfdist.predict(model, X, batch_size=4, verbose=0, callbacks=[Stop()])
    assert rows.shape == (4, 3)


def test_steps_end_it_early():
    model = model_of(dense, "2xcpu")
    data = tf.data.Dataset.from_tensor_slices(X).batch(4).repeat()
    np.testing.assert_allclose(
        tfdist.predict(model, data, steps=3, verbose=0), model(X[:12]), rtol=1e-5, atol=1e-6
    )
