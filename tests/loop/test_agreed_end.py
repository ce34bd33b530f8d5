"""What if the data ends on one worker before it does on another one?"""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfdist
from tfdist import testing
from tfdist.loop import agreed_end

ROWS = 22
X = np.random.default_rng(0).normal(size=(ROWS, 3))
Y = np.random.default_rng(1).normal(size=(ROWS, 1))
pytestmark = pytest.mark.timeout(300)


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ([], ""),
        ([0, 0], ""),
        ([3, 3], ""),
        ([1], ""),
        ([4, 0], "after 3 batches for the replicas [1], and went on for the replicas [0]"),
        ([0, 0, 1, 1], "after 0 batches for the replicas [0, 1], and went on for the replicas [2,"),
    ],
)
def test_other_ends_are_refused(numbers, said):
    if not said:
        agreed_end.refuse_other_ends(tf.constant(numbers, tf.int64))
        return
    with pytest.raises(RuntimeError, match="Give every worker the same data") as caught:
        agreed_end.refuse_other_ends(tf.constant(numbers, tf.int64))
    assert said in str(caught.value)


def test_only_data_of_unknown_length_asks_the_others():
    def batch(*element):
        return tf.data.experimental.get_next_as_optional(
            iter(tf.data.Dataset.from_tensors(element))
        ), tf.nest.map_structure(tf.type_spec_from_value, element)

    parts = tf.zeros([]), tf.zeros([]), tf.zeros([], tf.int64)
    number = tf.constant(7, tf.int64)
    ask = lambda own: tf.stack([own, 5])  # noqa: E731
    _, spec = batch(*parts, number)
    empty = tf.experimental.Optional.empty(spec)
    for (fetched, its_spec), agree, numbers, goes_on in [
        (batch(*parts), ask, [], True),
        (batch(*parts, number), None, [], True),
        (batch(*parts, number), ask, [7, 5], True),
        ((empty, spec), None, [], False),
        ((empty, spec), ask, [0, 5], False),
    ]:
        found = agreed_end.numbers_of(fetched, its_spec, agree)
        assert found.numpy().tolist() == numbers
        assert bool(agreed_end.goes_on(fetched, found)) == goes_on


def make_model(strategy, **options):
    keras.utils.set_random_seed(1)
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    with strategy.scope():
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"], **options)
    return model


def of_unknown_length(rows, size):
    """Batches of some rows, of which nobody knows how many there are."""
    dataset = tf.data.Dataset.from_tensor_slices((X[rows], Y[rows]))
    return dataset.filter(lambda x, y: True).batch(size)


def shorter_on_one(rank):
    """By name: what is done with data that ends sooner on worker 1."""
    rows = slice(ROWS if rank == 0 else 12)
    return {
        "fit": lambda s: tfdist.fit(make_model(s), of_unknown_length(rows, 4), verbose=0),
        "eager": lambda s: tfdist.fit(
            make_model(s, run_eagerly=True), of_unknown_length(rows, 4), verbose=0
        ),
        "evaluate": lambda s: tfdist.evaluate(
            make_model(s), of_unknown_length(rows, 4), verbose=0
        ),
        "predict": lambda s: tfdist.predict(
            make_model(s), of_unknown_length(rows, 4).map(lambda x, y: x), verbose=0
        ),
        "known length": lambda s: tfdist.fit(
            make_model(s), tf.data.Dataset.from_tensor_slices((X[rows], Y[rows])).batch(4),
            verbose=0,
        ),
    }


def trained(strategy, data, **options):
    model = make_model(strategy)
    history = tfdist.fit(model, data, epochs=3, verbose=0, **options)
    return [w.tolist() for w in model.get_weights()], history.history


def work():
    strategy, rank = tfdist.get_strategy("cpu"), tfdist.detect_cluster().rank
    assert strategy.num_replicas_in_sync == 2
    said = {}
    for name, act in shorter_on_one(rank).items():
        try:
            act(strategy)
            said[name] = "nothing"
        except (ValueError, RuntimeError) as error:
            said[name] = f"{type(error).__name__}: {error}"
    same = trained(strategy, of_unknown_length(slice(ROWS), 4))
    # Worker 0 has six batches of rows of its own, worker 1 two and a smaller one.
    own = slice(12) if rank == 0 else slice(12, 17)
    shares = {
        "unknown": trained(strategy, of_unknown_length(own, 2), already_sharded=True),
        "known": trained(
            strategy, tf.data.Dataset.from_tensor_slices((X[own], Y[own])).batch(2),
            already_sharded=True,
        ),
    }
    return said, same, shares


@pytest.fixture(scope="module")
def two_workers():
    return testing.run_workers(work, timeout_secs=240)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fit", "eager", "evaluate", "predict"])
def test_every_worker_is_told_of_data_that_ends_on_one(two_workers, name):
    for said, _, _ in two_workers:
        assert said[name] == (
            "RuntimeError: The data ended after 3 batches for the replicas [1], and went on for "
            "the replicas [0], so the workers do not read the same. Give every worker the same "
            "data, or each only its own share with already_sharded=True."
        )


@pytest.mark.slow
def test_every_worker_is_told_of_data_that_is_known_to_be_shorter(two_workers):
    for said, _, _ in two_workers:
        assert "worker 0: number of batches is 6; worker 1: number of batches is 3" in (
            said["known length"]
        )


def of_one_device(data):
    return trained(tfdist.get_strategy("cpu", cluster=None), data)


@pytest.mark.slow
def test_data_of_unknown_length_that_is_the_same_is_right(two_workers):
    expected = of_one_device(of_unknown_length(slice(ROWS), 4))
    for _, same, _ in two_workers:
        _assert_equal(same, expected)


@pytest.mark.slow
@pytest.mark.parametrize("length", ["known", "unknown"])
def test_shares_of_unequal_size_are_right(two_workers, length):
    rows = [[0, 1, 12, 13], [2, 3, 14, 15], [4, 5, 16], [6, 7], [8, 9], [10, 11]]
    batches = tf.data.Dataset.from_generator(
        lambda: ((X[part], Y[part]) for part in rows),
        output_signature=(tf.TensorSpec([None, 3], X.dtype), tf.TensorSpec([None, 1], Y.dtype)),
    )
    expected = of_one_device(batches)
    for _, _, shares in two_workers:
        _assert_equal(shares[length], expected)


def _assert_equal(found, expected):
    for one, other in zip(found[0], expected[0], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-13)
    assert found[1].keys() == expected[1].keys()
    for name, values in expected[1].items():
        np.testing.assert_allclose(found[1][name], values, rtol=1e-12)
