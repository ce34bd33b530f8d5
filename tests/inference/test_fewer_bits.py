"""Is a model in fewer bits a copy whose outputs are near, and does it predict into files?"""

from __future__ import annotations

import keras
import numpy as np
import pytest
from pyarrow import parquet

import tfdist
from tfdist.inference import predict_to, reduced

_X = np.random.default_rng(0).normal(size=[37, 6]).astype(np.float32)


class Doubled(keras.layers.Layer):
    """A layer with one of its own that no configuration shows."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = keras.layers.Dense(5)

    def build(self, shape):
        self.inner.build(shape)

    def call(self, x):
        return 2 * self.inner(x)


@pytest.fixture(scope="module")
def model():
    strategy = tfdist.get_strategy("2xcpu")
    assert strategy.num_replicas_in_sync == 2
    with strategy.scope(), keras.saving.custom_object_scope({"Doubled": Doubled}):
        made = keras.Sequential([
            keras.Input((6,)), keras.layers.Dense(16, "tanh"), keras.layers.BatchNormalization(),
            Doubled(),
        ])  # fmt: skip
        made.compile("adam", "mse")
        yield made


@pytest.mark.parametrize(
    ("weights", "kinds", "off"),
    [
        ("int8", {"int8", "float32"}, 0.03), ("bfloat16", {"bfloat16"}, 0.03),
    ],
)
def test_outputs_are_near(weights, kinds, off, model, tmp_path):
    before, expected = model.get_weights(), model.predict(_X, verbose=0)
    small = reduced(model, weights)
    assert {keras.backend.standardize_dtype(one.dtype) for one in small.variables} == kinds
    assert small.distribute_strategy is model.distribute_strategy
    predict_to(small, _X, tmp_path, batch_size=8, part_rows=16, verbose=0)
    found = np.asarray(parquet.read_table(tmp_path).to_pydict()["prediction"])
    assert 0 < np.abs(found - expected).max() < off * np.abs(expected).max()
    for one, kept in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, kept)
    assert keras.config.dtype_policy().name == "float32"


def test_what_cannot_be_reduced_is_refused(model):
    with pytest.raises(ValueError, match="weights='int3' is unknown. Give one of int8, bfloat16"):
        reduced(model, "int3")
    convolution = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Conv2D(2, 3)])
    with pytest.raises(ValueError, match="has no dense layer and no embedding. Use bfloat16"):
        reduced(convolution, "int8")
