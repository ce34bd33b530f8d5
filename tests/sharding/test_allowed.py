"""Is everything that cannot be had in slices refused by name, before the first step?"""

from __future__ import annotations

import keras
import numpy as np
import pytest
from parity import worlds

import tfdist

_X, _Y = np.zeros((4, 3), "float32"), np.zeros(4, "float32")


class OwnStep(keras.Sequential):
    def train_step(self, data):
        return {}


class OwnAdam(keras.optimizers.Adam):
    pass


def _built(optimizer="adam", kind=keras.Sequential, **options):
    with worlds.local_strategy(2).scope():
        model = kind([keras.Input((3,)), keras.layers.Dense(1)])
        model.compile(optimizer, "mse", **options)
    return model


@pytest.mark.parametrize(
    ("model", "fit", "told"),
    [
        ({}, {"sharded_optimizer": "yes"}, "sharded_optimizer='yes' must be True or False"),
        ({}, {"local_steps": 2}, "local_steps"),
        ({}, {"reduction": "auto"}, "reduction='auto'"),
        ({}, {"reduction": tfdist.Reduction("bfloat16", error_feedback=True)}, "error_feedback"),
        ({}, {"profile": True}, "profile"),
        ({"run_eagerly": True}, {}, "run_eagerly"),
        ({"kind": OwnStep}, {}, "a training rule of the model's own"),
        ({"optimizer": OwnAdam}, {}, "OwnAdam, of which it is not known"),
        (
            {"optimizer": lambda: keras.optimizers.LossScaleOptimizer(OwnAdam())},
            {}, "OwnAdam, of which",
        ),
    ],
)  # fmt: skip
def test_refused(model, fit, told, logical_cpus):
    make = model.pop("optimizer", keras.optimizers.Adam)
    with worlds.local_strategy(2).scope():
        optimizer = make()
    built = _built(optimizer, **model)
    with pytest.raises(ValueError, match=told.replace("(", r"\(")):
        tfdist.fit(built, _X, _Y, verbose=0, **{"sharded_optimizer": True, **fit})
    assert not built.optimizer.built


class Table(keras.layers.Layer):
    """A table of its own, of which rows are looked up."""

    def __init__(self):
        super().__init__()
        self.rows = self.add_weight(shape=(5, 2), name="rows")

    def call(self, x):
        return keras.ops.take(self.rows, keras.ops.cast(x, "int32"), axis=0)


def test_rows_of_a_table_of_ones_own_are_refused(logical_cpus):
    with worlds.local_strategy(2).scope():
        model = keras.Sequential([keras.Input((3,)), Table(), keras.layers.Flatten(),
                                  keras.layers.Dense(1)])  # fmt: skip
        model.compile("adam", "mse")
    before = model.get_weights()
    with pytest.raises(ValueError, match="'table.*rows' is rows of a table that is not one of"):
        tfdist.fit(model, _X, _Y, verbose=0, sharded_optimizer=True, check=False)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
