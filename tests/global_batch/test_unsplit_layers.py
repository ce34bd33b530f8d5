"""tests of tfdist/global_batch/unsplit_layers.py"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from parity import worlds

import tfdist

layers = keras.layers
_IMAGES, _ROWS = np.full((4, 3, 4, 3), 30.0), np.ones((4, 3))


def _augmented(layer: Any) -> Callable[[], keras.Model]:
    return lambda: keras.Sequential(
        [layers.Rescaling(2.0), keras.Sequential([layer()]), layers.Flatten()]
    )


def _quantized() -> keras.Model:
    dense = layers.Dense(2)
    dense.build((None, 3))
    dense.quantize("float8")
    return keras.Sequential([dense])


@pytest.mark.parametrize(
    ("build", "x", "text"),
    [
        (_augmented(layers.AugMix), _IMAGES, "AugMix .*Python's random .* 2 replicas .*map"),
        (_augmented(layers.CutMix), _IMAGES, "CutMix .*mixes the images"),
        (_augmented(layers.MixUp), _IMAGES, "MixUp .*mixes the images"),
        (_augmented(layers.RandAugment), _IMAGES, "Equalization .*histogram"),
        (_quantized, _ROWS, "inputs_scale.* float8.* 2 replicas .*one device"),
    ],
)
def test_layers_of_the_whole_batch_are_refused(build: Any, x: Any, text: str) -> None:
    with worlds.local_strategy(2).scope():
        model = build()
        model.compile("sgd", "mse")
    y = np.zeros((4, 36 if x is _IMAGES else 2))
    if x is _ROWS:  # which writes nothing then
        assert tfdist.predict(model, x, verbose=0).shape == y.shape
    for train in (tfdist.fit, tfdist.train_on_batch):
        with pytest.raises(ValueError, match=text):
            train(model, x, y)


def test_overwritten_variables_of_an_own_loop_are_refused() -> None:
    strategy = worlds.local_strategy(2)
    with strategy.scope():
        model, optimizer = _quantized(), keras.optimizers.SGD()

    def replica_step(x: Any) -> Any:
        variables = model.trainable_variables
        tfdist.apply_gradients(optimizer, [None for _ in variables], variables)
        return keras.ops.sum(x)

    step = tfdist.make_train_step(replica_step, strategy)
    data = tf.data.Dataset.from_tensor_slices(_ROWS).batch(4)
    [batch] = tfdist.distribute_dataset(data, strategy)
    with pytest.raises(ValueError, match=r"float8.* 2 replicas"):
        step(batch)
