"""What is one step of a loop that is written by hand? As guides show it, for benchmark.py.

Imports nothing of tfdist: orbit_loop.py runs in an environment that may not have it.
"""

from __future__ import annotations

from typing import Any


def train_once(
    model: Any, optimizer: Any, loss_of: Any, metrics: tuple[Any, Any], rows: Any, labels: Any
) -> None:
    """Updates a model by one batch, and an accuracy and a mean loss with it."""
    import tensorflow as tf

    accuracy, mean = metrics
    with tf.GradientTape() as tape:
        outputs = model(rows, training=True)
        loss = loss_of(labels, outputs)
    gradients = tape.gradient(loss, model.trainable_variables)
    optimizer.apply(gradients, model.trainable_variables)
    accuracy.update_state(labels, outputs)
    mean.update_state(loss)
