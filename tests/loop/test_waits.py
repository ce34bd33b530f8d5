"""Do the stamps of a loop's waits stand where they should?"""

from __future__ import annotations

import time

import tensorflow as tf

from tfdist.loop.waits import Waits


def test_a_stamp_comes_after_all_of_the_step():
    # By itself a tf.function orders stateful operations alone, and most of a step has none.
    waits = Waits()
    made = []

    @tf.function(autograph=False)
    def traced(x):
        def step(batch):
            made.extend([tf.linalg.matmul(batch, batch).op, tf.sin(batch).op])

        tf.cos(x)  # none of the step
        waits.after(step)(x)
        return x

    graph = traced.get_concrete_function(tf.TensorSpec([2, 2])).graph
    [stamp] = [op for op in graph.get_operations() if op.type == "Timestamp"]
    assert set(stamp.control_inputs) >= set(made)
    assert "Cos" not in {op.type for op in stamp.control_inputs}


def test_waits_are_added_up_and_taken():
    waits = Waits()

    def slowly(value):
        tf.py_function(lambda: time.sleep(0.05), [], [])
        return value

    data = tf.data.Dataset.range(2).map(slowly)

    @tf.function(autograph=False)
    def traced(iterator):
        return waits.next_where(tf.constant(True), iterator).has_value()

    iterator = iter(data)
    assert bool(traced(iterator))
    assert bool(traced(iterator))
    assert 0.1 * 0.9 <= waits.take() < 2.0
    assert waits.take() == 0.0
