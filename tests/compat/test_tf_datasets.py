"""Is it read off a dataset what it is made of?"""

from __future__ import annotations

import tensorflow as tf

from tfdist.compat import tf_datasets


def test_kinds_and_numbers():
    examples = tf.data.Dataset.range(9).shuffle(3, seed=1)
    found = [examples, examples.map(abs), examples.map(abs, 2), examples.repeat(4)]
    kinds = [tf_datasets.kind_of(one) for one in found]
    assert kinds == ["Shuffle", "Map", "ParallelMap", "Repeat"]
    assert tf_datasets.number_in(found[2], "num_parallel_calls") == 2
    assert tf_datasets.number_in(found[3], "count") == 4
    assert tf_datasets.number_in(examples, "count") is None
    assert tf_datasets.inputs_of(found[3]) == [examples]


def test_padding_of_a_padded_batch():
    batches = tf.data.Dataset.range(3).map(lambda i: tf.fill([i], i)).padded_batch(2)
    shapes, values = tf_datasets.padding_in(batches)
    assert (shapes.numpy().tolist(), values.numpy()) == ([-1], 0)
    assert tf_datasets.padding_in(tf.data.Dataset.range(3).batch(2)) is None


def test_the_function_of_a_map_is_applied_to_an_element():
    source = tf.data.Dataset.from_tensor_slices({"a": [1, 2], "b": [[1.0], [2.0]]})
    mapped = source.map(lambda row: (row["b"], {"c": row["a"] + 1}))
    element = next(iter(source.skip(1)))
    b, rest = tf_datasets.apply_map(mapped, element)
    assert (b.numpy().tolist(), rest["c"].numpy()) == ([2.0], 3)


def test_stateful_operations_are_found_in_the_bodies_of_calls_too():
    @tf.function
    def inner(i):
        return tf.cond(i > 2, lambda: tf.random.uniform([], seed=1), lambda: 0.0)

    source = tf.data.Dataset.range(3)
    assert "RandomUniform" in tf_datasets.stateful_operations(source.map(inner))
    assert tf_datasets.stateful_operations(source.map(lambda i: i + 1)) == set()
    assert tf_datasets.stateful_operations(source) is None
