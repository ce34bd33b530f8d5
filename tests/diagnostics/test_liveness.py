"""Are the tensors of a graph held from where they are made to their last use?"""

from __future__ import annotations

import pytest
import tensorflow as tf

from tfdist.diagnostics import liveness

_ROW = 4 * 100  # bytes of the tensors below


def held_by(step):
    """Traces `step(x, mark)`, which calls mark between its passes and returns its outputs."""
    marks = []

    @tf.function(autograph=False)
    def traced(x):
        return step(x, lambda: marks.append(
            len(tf.compat.v1.get_default_graph().get_operations())))

    graph = traced.get_concrete_function(tf.TensorSpec([100])).graph
    return liveness.held(graph.get_operations(), num_forward=marks[0], outputs=graph.outputs)


def test_what_the_backward_pass_uses_is_kept():
    def step(x, mark):
        a = tf.cumsum(x)
        b = tf.cumsum(a)
        mark()
        return tf.cumsum(b) + tf.cumsum(a)

    found = held_by(step)
    assert found.kept == 2 * _ROW  # the argument is nobody's
    assert found.uncounted == ()


def test_a_tensor_goes_after_its_last_use():
    def step(x, mark):
        mark()
        for _ in range(5):
            x = tf.cumsum(x)
        return x

    assert held_by(step).peak == pytest.approx(2 * _ROW, abs=50)  # and the axis of each


def test_other_names_take_nothing():
    def step(x, mark):
        a = tf.cumsum(x)
        b = tf.reshape(tf.identity(a), [10, 10])
        mark()
        return tf.cumsum(b)

    assert held_by(step).kept == _ROW


def test_a_last_use_is_written_over():
    def step(x, mark):
        a = tf.cumsum(x)
        mark()
        return tf.nn.relu(a)

    def step_that_keeps(x, mark):
        a = tf.cumsum(x)
        mark()
        return tf.nn.relu(a), a

    assert held_by(step).peak == pytest.approx(_ROW, abs=50)
    assert held_by(step_that_keeps).peak == pytest.approx(2 * _ROW, abs=50)


def test_what_nobody_needs_is_not_run():
    def step(x, mark):
        tf.cumsum(tf.cumsum(x))
        mark()
        return tf.sin(x)

    assert held_by(step).peak == _ROW


def test_a_shape_holds_nothing():
    def step(x, mark):
        a = tf.cumsum(x)
        mark()
        return tf.raw_ops.Shape(input=a)  # tf.shape would know it while tracing

    assert held_by(step).kept == 0


def test_unknown_sizes_are_named():
    def step(x, mark):
        mark()
        return tf.boolean_mask(x, x > 0)

    assert held_by(step).uncounted
