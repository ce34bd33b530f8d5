"""Do all workers leave out a step where one of them alone holds what is not finite?

Norms to clip by are in the parity table (the rows named "slices"); there an overflow is in the
slices of all workers.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

from tfdist import testing

_FEATURES = 4


def _on_a_worker() -> list[Any]:
    import keras

    import tfdist

    strategy = tfdist.get_strategy("cpu")
    assert strategy.num_replicas_in_sync == 2
    # The gradient of a linear loss is the mean of the rows: infinite in its last number alone.
    x = np.ones((6, _FEATURES), "float32")
    x[0, -1] = np.inf
    found = []
    # Momentum of two steps of one: 1 + 1.9. Lamb goes as far as the weights are long: 1 + 1.
    momentum = functools.partial(keras.optimizers.SGD, 1.0, momentum=0.9)
    makes = {-2.9: momentum, -2.0: functools.partial(keras.optimizers.Lamb, 1.0)}
    for expected, scaled, on_nan in (
        (e, *way) for e in makes for way in ((True, "ignore"), (False, "skip"))
    ):
        with strategy.scope():
            dense = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
            model = keras.Sequential([keras.Input((_FEATURES,)), dense])
            optimizer: Any = makes[expected]()
            if scaled:
                optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=4.0)
            model.compile(optimizer, loss=lambda y, y_pred: y_pred[:, 0])
        tfdist.fit(
            model, x, np.zeros(6), batch_size=2, shuffle=False, verbose=0, on_nan=on_nan,
            sharded_optimizer=True, check=False,
        )
        weights = model.get_weights()[0].ravel().tolist()
        found.append([int(optimizer.iterations.numpy()), weights, expected])
    return found


@pytest.mark.slow
def test_a_step_is_left_out_on_all_workers():
    for found in testing.run_workers(_on_a_worker, workers=2, threads=1):
        for steps, weights, expected in found:
            assert steps == 2
            np.testing.assert_allclose(weights, [expected] * _FEATURES, rtol=1e-5)
