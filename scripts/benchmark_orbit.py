"""How fast are small steps against those of Orbit, TensorFlow's own library of training loops?

The suite `step` of benchmark.py with `--peer=orbit`; see there. Orbit is a folder of the wheel
tf-models-official, which asks for much that Orbit does not use: the two wheels that it does use are
put into a folder of their own. It trains in this process, with the same TensorFlow and by turns.
"""

from __future__ import annotations

import pathlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any

_WHEELS = ("tf-models-official==2.20.0", "tf-keras")


def orbit_loop(model: Any, data: Any, *, steps: int, steps_per_loop: int) -> Callable[[], object]:
    """Returns a loop over one epoch as Orbit's guide has it: a StandardTrainer and a Controller.

    Args:
        model: A compiled Keras model; its optimizer trains.
        data: A `tf.data.Dataset` of batches.
        steps: Steps of an epoch.
        steps_per_loop: Steps inside of one traced function.
    """
    orbit = _orbit()
    import keras
    import tensorflow as tf

    optimizer = model.optimizer
    optimizer.build(model.trainable_variables)
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    accuracy, mean = keras.metrics.SparseCategoricalAccuracy(), keras.metrics.Mean()
    for rows, labels in data.take(1):
        accuracy.update_state(labels, model(rows))
        accuracy.reset_state()

    class Trainer(orbit.StandardTrainer):  # type: ignore[misc, name-defined]
        """One step of a GradientTape; the rest is Orbit's."""

        def train_step(self, iterator: Any) -> None:
            rows, labels = next(iterator)
            with tf.GradientTape() as tape:
                outputs = model(rows, training=True)
                loss = loss_of(labels, outputs)
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply(gradients, model.trainable_variables)
            accuracy.update_state(labels, outputs)
            mean.update_state(loss)
            global_step.assign_add(1)

        def train_loop_end(self) -> dict[str, Any]:
            logs = {"loss": mean.result(), "accuracy": accuracy.result()}
            mean.reset_state()
            accuracy.reset_state()
            return logs

    global_step = tf.Variable(0, dtype=tf.int64)
    controller = orbit.Controller(
        global_step=global_step, trainer=Trainer(data.repeat()), steps_per_loop=steps_per_loop
    )
    return lambda: controller.train(steps=int(global_step) + steps)


def _orbit() -> Any:
    """Returns the package, which is put beside the checkout where it is missing."""
    folder = pathlib.Path(__file__).resolve().parent.parent / ".venv-orbit"
    if not folder.exists():
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder)]
        subprocess.run([*pip, *_WHEELS], check=True)
    sys.path.append(str(folder))
    import orbit  # type: ignore[import-not-found]

    return orbit
