"""Are workers told apart that would read something else, and only those?"""

from __future__ import annotations

import keras
import numpy as np
import pytest
import scipy.sparse
import tensorflow as tf
from two_workers import refused

from tfdist.data import same_data

X = np.arange(12.0).reshape(6, 2)


def test_workers_with_other_data_are_refused_with_the_cure():
    def given(value):
        return lambda workers: same_data.require({"a": value}, workers)

    for text in refused(given(1), given(2)):
        assert "given different data: worker 0: a is 1; worker 1: a is 2. " in text
        assert "already_sharded=True" in text
    assert refused(given(1), given(1)) == ["", ""]


def test_a_batch_of_anything_has_facts():
    made = ([[1.0, 2.0], [3.0, 4.0]], None)
    assert same_data.of_batch((X[:2], None)) == same_data.of_batch((tf.constant(X[:2]), None))
    assert same_data.of_batch(made) == same_data.of_batch(made)
    assert same_data.of_batch(made) != same_data.of_batch(([[1.0, 2.0], [3.0, 5.0]], None))


@pytest.mark.parametrize(
    "other",
    [
        X + 1,
        X[::-1],
        X.astype("float32"),
        X.reshape(3, 4),
        X[:, :1],
        (X, X),
    ],
)
def test_arrays_are_told_apart(other):
    assert same_data.of_arrays(X) == same_data.of_arrays(X.copy())
    assert same_data.of_arrays(X) != same_data.of_arrays(other)


@pytest.mark.parametrize(
    "make",
    [
        lambda x: tf.constant(x),
        lambda x: scipy.sparse.csr_matrix(x),
        lambda x: tf.sparse.from_dense(x),
        lambda x: tf.ragged.constant(x.tolist()),
        lambda x: np.array([f"{value}" for value in x.ravel()]),
        lambda x: np.array([[f"{value}"] for value in x.ravel()], dtype=object),
        lambda x: {"a": (x, None)},
    ],
)
def test_kinds_of_arrays_are_told_apart(make):
    assert same_data.of_arrays(make(X)) == same_data.of_arrays(make(X))
    assert same_data.of_arrays(make(X)) != same_data.of_arrays(make(X + 1))


def test_large_arrays_are_looked_at_in_places(monkeypatch):
    monkeypatch.setattr(same_data, "_WHOLE_BYTES", 16)
    assert same_data.of_arrays(X) != same_data.of_arrays(X + 1)


def numbers():
    return tf.data.Dataset.range(6)


def interleaved(seed):
    return numbers().interleave(lambda i: numbers().shuffle(3, seed=seed))


def noisy(seed):
    return numbers().map(lambda i: tf.random.uniform([], seed=seed))


UNSEEDED = {
    "shuffle": lambda: numbers().shuffle(3).batch(2),
    "under a map": lambda: numbers().shuffle(3).map(lambda i: i + 1).repeat().batch(2).prefetch(1),
    "in an interleave": lambda: interleaved(None).batch(2),
    "in a zip": lambda: tf.data.Dataset.zip((numbers(), numbers().shuffle(3))).batch(2),
    "noise": lambda: noisy(None).batch(2),
    "sampled": lambda: tf.data.Dataset.sample_from_datasets([numbers(), numbers()]).batch(2),
}
SEEDED = {
    "shuffle": lambda seed: numbers().shuffle(3, seed=seed).batch(2),
    "in an interleave": lambda seed: interleaved(seed).batch(2),
    "noise": lambda seed: noisy(seed).batch(2),
}


@pytest.fixture
def unseeded():
    """No seed for the whole process, whatever was set before."""
    tf.random.set_seed(None)
    yield
    tf.random.set_seed(None)


@pytest.mark.parametrize("name", UNSEEDED)
def test_a_dataset_without_a_seed_is_refused(name, unseeded):
    with pytest.raises(ValueError, match=r"without a seed.*set_random_seed"):
        same_data.of_dataset(UNSEEDED[name]())


@pytest.mark.parametrize("name", ["shuffle", "under a map", "in an interleave", "noise"])
def test_the_seed_of_the_process_is_enough(name, unseeded):
    keras.utils.set_random_seed(3)
    same_data.of_dataset(UNSEEDED[name]())


@pytest.mark.parametrize("name", SEEDED)
def test_datasets_with_other_seeds_are_told_apart(name, unseeded):
    first, again, other = (same_data.of_dataset(SEEDED[name](seed)) for seed in (1, 1, 2))
    assert first == again
    assert first["seeds"] != other["seeds"]


def test_datasets_of_other_lengths_or_specs_are_told_apart():
    base = same_data.of_dataset(numbers().batch(2))
    assert base != same_data.of_dataset(numbers().batch(3))
    assert base != same_data.of_dataset(numbers().map(lambda i: tf.cast(i, tf.int32)).batch(2))


def test_reading_all_files_is_logged(caplog):
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.FILE
    with caplog.at_level("INFO", logger="tfdist"):
        same_data.of_dataset(numbers().batch(2).with_options(options))
    assert "every worker reads all files" in caplog.text


def test_leave_to_reorder_is_taken_away():
    options = tf.data.Options()
    options.deterministic = False
    loose = numbers().with_options(options)
    assert same_data.in_one_order(loose).options().deterministic is True
    assert same_data.in_one_order(numbers()).options().deterministic is not True


SAMPLES = {
    "floats": X,
    "halves": X.astype("float16"),
    "integers": X.astype("int32"),
    "flags": X > 3,
    "texts": X.astype(str),
    "long rows": np.arange(6000.0).reshape(6, 1000),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_tell_batches_apart(name):
    value = SAMPLES[name]
    sample = same_data.sample({"x": tf.constant(value), "none": None}).numpy()
    assert sample == same_data.sample({"x": tf.constant(value.copy()), "none": None}).numpy()
    assert sample != same_data.sample({"x": tf.constant(value[::-1]), "none": None}).numpy()
    changed = value.copy()
    changed[0, 0] = value[-1, -1]
    assert sample != same_data.sample({"x": tf.constant(changed), "none": None}).numpy()


@pytest.mark.parametrize("make", [tf.sparse.from_dense, lambda x: tf.ragged.constant(x.tolist())])
def test_samples_of_other_kinds_of_tensors(make):
    assert same_data.sample(make(X)).numpy() == same_data.sample(make(X.copy())).numpy()
    assert same_data.sample(make(X)).numpy() != same_data.sample(make(X[::-1])).numpy()


def test_witness_tells_orders_apart():
    def value_after(*samples):
        witness = same_data.Witness(is_needed=True)
        for sample in samples:
            witness.note(tf.constant(sample, tf.int64))
        return witness.value()

    assert value_after(1, 2) == value_after(1, 2) != value_after(2, 1)
    assert same_data.Witness(is_needed=False).value() == 0


def test_other_sums_end_the_run():
    same_data.refuse_other_batches(np.array([3, 3]))
    with pytest.raises(RuntimeError, match="{0: 3, 1: 4} by worker"):
        same_data.refuse_other_batches(np.array([3, 4]))
