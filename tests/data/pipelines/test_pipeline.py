"""Is a dataset read apart into elements, maps and batches, as far as that changes nothing?"""

from __future__ import annotations

import keras
import pytest
import tensorflow as tf

from tfdist.data.pipelines.pipeline import Counted, Pipeline, examples_of, read_apart


def _range(stop=9):
    return tf.data.Dataset.range(stop)


def _plus(i):
    return i + 1


def test_maps_lie_between_elements_and_batches():
    dataset = _range().shuffle(3, seed=1).map(_plus, 4).prefetch(2).map(_plus).repeat(2)
    found = read_apart(dataset.batch(4, drop_remainder=True).take(3).repeat())
    assert isinstance(found, Pipeline)
    assert (len(found.examples.maps), found.examples.parallel_calls) == (2, 4)
    assert (found.batching.size, found.batching.drops_remainder) == (4, True)
    assert found.after == (Counted("Take", 3), Counted("Repeat", -1))
    made = [int(found.examples.make(element)) for element in found.examples.elements]
    assert sorted(made) == sorted([*range(2, 11)] * 2)
    assert found.examples.obstacle is None


def test_datasets_side_by_side_are_each_read_apart():
    parts = {"a": _range().map(_plus, 2), "b": (_range(5).map(_plus, tf.data.AUTOTUNE)).take(4)}
    found = examples_of(tf.data.Dataset.zip(parts))
    assert (len(found.maps), found.parallel_calls) == (2, tf.data.AUTOTUNE)
    made = [found.make(element) for element in found.elements]
    assert [(int(one["a"]), int(one["b"])) for one in made] == [(i, i) for i in range(1, 5)]


@pytest.mark.parametrize(
    ("dataset", "part"),
    [
        (lambda: _range().batch(2).map(_plus), "after .batch() gets the rows"),
        (lambda: _range().batch(2).cache(), ".cache() comes after .batch()"),
        (lambda: _range().batch(2).rebatch(4), ".rebatch() comes after .batch()"),
        (lambda: _range().map(lambda i: tf.fill([i], i)).padded_batch(2), "padded_shapes"),
    ],
)
def test_what_stands_in_the_way_of_the_batching_is_named(dataset, part):
    assert part in read_apart(dataset())


@pytest.mark.parametrize(
    ("examples", "part"),
    [
        (lambda: _range().map(_plus).shuffle(2, seed=1), ".shuffle() comes after a .map()"),
        (lambda: _range().map(_plus).filter(lambda i: i > 2), ".filter() comes after a .map()"),
        (lambda: _range().map(_plus).cache(), "kept in a .cache()"),
        (lambda: _range().map(lambda i: tf.random.uniform([], seed=1)), "(RandomUniform)"),
        (lambda: _range().shuffle(2, seed=1), None),
    ],
)
def test_what_stands_in_the_way_of_the_maps_is_named(examples, part):
    found = examples_of(examples())
    assert found.maps == ()
    assert part is None if found.obstacle is None else part in found.obstacle


def test_a_random_layer_in_a_map_has_a_state():
    with tf.init_scope():
        layer = keras.layers.GaussianNoise(0.1, seed=1)
    dataset = _range().map(lambda i: layer(tf.fill([1, 2], tf.cast(i, tf.float32)), training=True))
    assert "has a state" in examples_of(dataset).obstacle


def test_lookups_and_branches_have_no_state_of_their_own():
    table = tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(tf.range(9, dtype=tf.int64), tf.range(9)), -1
    )
    dataset = _range().map(lambda i: tf.cond(i > 3, lambda: table.lookup(i), lambda: 0))
    assert len(examples_of(dataset).maps) == 1
