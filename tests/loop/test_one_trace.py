"""Is a step with code of its own traced once, for the check of the first one and for the loop?"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfdist


class Counting(keras.Sequential):
    """A model whose own step counts how often Python runs it, which is while it is traced."""

    calls = 0

    def train_step(self, batch: Any) -> dict[str, Any]:
        type(self).calls += 1
        x, y = batch
        with tf.GradientTape() as tape:
            loss = keras.ops.mean(keras.ops.square(self(x, training=True) - y))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"loss": loss}


def _trained(**given: Any) -> tuple[int, keras.Model]:
    """Returns how often a step was traced, and the model."""
    kind: Any = type("Counted", (Counting,), {})
    strategy = tfdist.get_strategy("2xcpu")
    assert strategy.num_replicas_in_sync == 2
    keras.utils.set_random_seed(1)
    with strategy.scope():
        optimizer: Any = keras.optimizers.Adam(0.1)
        if given.pop("scales", False):
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        model = kind([keras.Input((3,)), keras.layers.Dense(2, "tanh"), keras.layers.Dense(1)])
        model.compile(optimizer)
    draw = np.random.default_rng(3)
    history = tfdist.fit(
        model, draw.normal(size=(11, 3)), draw.normal(size=(11, 1)), batch_size=5, verbose=0,
        epochs=2, **given,
    )
    checked = history.checked.get("train_step")
    expected = None if given.get("check") is False else "the first one agrees with one device's"
    assert checked == expected
    return kind.calls, model


def test_the_check_and_the_loop_share_a_trace():
    calls, model = _trained()
    assert calls == 2  # one for each replica
    unchecked, other = _trained(check=False)
    assert unchecked == 2
    for one, two in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("given", [{"reduction": "bfloat16"}, {"scales": True}])
def test_a_loop_that_does_more_has_a_trace_of_its_own(given):
    calls, _ = _trained(**given)
    assert calls == 4
