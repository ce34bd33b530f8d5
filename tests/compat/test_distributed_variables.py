"""Do variables of several replicas become Python's and NumPy's numbers, as those of one device?"""

from __future__ import annotations

import keras
import numpy as np
import pytest

import tfdist
from tfdist.compat import distributed_variables


@pytest.mark.parametrize("aggregation", ["mean", "only_first_replica"])
def test_conversions(aggregation):
    strategy = tfdist.get_strategy("2xcpu")
    assert strategy.num_replicas_in_sync == 2
    with strategy.scope():
        variable = keras.Variable(2.0, aggregation=aggregation)
        vector = keras.Variable([1.0, 2.0], aggregation=aggregation)
    with distributed_variables.convertible():
        for one in (variable, variable.value):
            assert (int(one), float(one)) == (2, 2.0)
        np.testing.assert_array_equal(np.asarray(vector), [1.0, 2.0])
        np.testing.assert_array_equal(np.array([variable, 3.0]), [2.0, 3.0])
        assert np.asarray(vector.value, "float64").dtype == np.float64
        with pytest.raises(TypeError):
            float(vector.value)
    with pytest.raises(TypeError):
        int(variable)  # taken back


def test_a_callback_reads_the_learning_rate():
    with tfdist.get_strategy("2xcpu").scope():
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(0.5), "mse")
    seen = []
    reads = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(
            (float(model.optimizer.learning_rate), int(model.optimizer.iterations))
        )
    )
    tfdist.fit(model, np.ones((4, 2)), np.ones(4), batch_size=2, verbose=0, callbacks=[reads])
    assert seen == [(0.5, 2)]
