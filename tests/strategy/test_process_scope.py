"""Is one strategy in scope for the whole process, and left for a program's own?"""

from __future__ import annotations

import keras
import pytest
import tensorflow as tf

from tfdist.strategy import process_scope


@pytest.fixture
def strategy():
    made = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])
    process_scope.enter(made)
    yield made
    process_scope.leave()
    assert not tf.distribute.has_strategy()
    assert process_scope.current() is None


def test_variables_are_made_under_it(strategy):
    assert len(strategy.experimental_local_results(keras.Variable([1.0]).value)) == 2
    with strategy.scope():  # again, as many programs do
        assert tf.distribute.get_strategy() is strategy


def test_a_program_that_enters_its_own_keeps_it(strategy):
    inside = keras.Variable(1.0)
    other = tf.distribute.OneDeviceStrategy("/cpu:0")
    with other.scope() as entered:
        assert tf.distribute.get_strategy() is entered is other
        own = keras.Variable(2.0)
    # Both can be read afterwards, which TensorFlow refuses in the scope of another strategy.
    assert (inside.value.numpy(), own.value.numpy()) == (1.0, 2.0)
    assert process_scope.current() is None
    process_scope.enter(strategy)
    with process_scope.left_for(other):
        assert not tf.distribute.has_strategy()
        with process_scope.left_for(strategy):  # it was left already
            assert not tf.distribute.has_strategy()
    assert tf.distribute.get_strategy() is strategy


def test_with_other_workers_a_program_gets_the_one_that_there_is():
    made = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])
    process_scope.enter(made, has_others=True)
    try:
        assert tf.distribute.MirroredStrategy() is made
        assert tf.distribute.MirroredStrategy(["/cpu:0"]) is made
        assert tf.distribute.MultiWorkerMirroredStrategy() is made
        with pytest.raises(RuntimeError, match="no further strategy can be made here.*unpatch"):
            process_scope.refuse_another()
    finally:
        process_scope.leave()
    again = tf.distribute.MirroredStrategy(["/cpu:0"])
    assert again is not made
    assert (again.num_replicas_in_sync, made.num_replicas_in_sync) == (1, 2)
    process_scope.refuse_another()


def test_clearing_the_session_keeps_it(strategy):
    keras.utils.clear_session()
    assert tf.distribute.get_strategy() is strategy


def test_inside_of_a_scope_it_is_refused():
    own, reset = tf.distribute.Strategy.scope, tf.compat.v1.reset_default_graph
    made = tf.distribute.MirroredStrategy(["/cpu:0"])
    with made.scope(), pytest.raises(RuntimeError, match="is in scope already.*outside of"):
        process_scope.enter(made)
    assert process_scope.current() is None
    assert (tf.distribute.Strategy.scope, tf.compat.v1.reset_default_graph) == (own, reset)
