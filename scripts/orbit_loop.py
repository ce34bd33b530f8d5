"""Trains a small model by Orbit's Controller, when it is told to: a peer of benchmark.py.

    python scripts/orbit_loop.py STEPS

For each line of its input, a number of steps a loop, it runs so many STEPS and prints a line. Run
by `benchmark.py --peer=orbit` with a Python that has orbit, on the model and the batches that suite
step times tfdist on. The trainer is that of Orbit's examples: a `StandardTrainer` whose step is run
by the strategy, here with a model, an optimizer and metrics of Keras 3.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any

from benchmark_by_hand import train_once

_BATCH = 32


def small_trainer(steps: int) -> Any:
    """Returns a trainer of the MLP 64-64-64-10 with Adam and one metric, on random examples."""
    import keras
    import numpy as np
    import orbit
    import tensorflow as tf

    rng = np.random.default_rng(0)
    x = rng.normal(size=(steps * _BATCH, 64)).astype("float32")
    y = rng.integers(0, 10, len(x))
    data = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(1024).batch(_BATCH)
    data = data.repeat().prefetch(tf.data.AUTOTUNE)
    dense = keras.layers.Dense
    model = keras.Sequential([keras.Input((64,)), dense(64, "relu"), dense(64, "relu"), dense(10)])
    optimizer = keras.optimizers.Adam()
    optimizer.build(model.trainable_variables)
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    accuracy, mean = keras.metrics.SparseCategoricalAccuracy(), keras.metrics.Mean()
    accuracy.update_state(y[:2], model(x[:2]))

    class Trainer(orbit.StandardTrainer):  # type: ignore[misc]
        """The steps that Orbit runs inside one `tf.while_loop`."""

        global_step = orbit.utils.create_global_step()

        def train_loop_begin(self) -> None:
            accuracy.reset_state()
            mean.reset_state()

        def train_step(self, iterator: Any) -> None:
            def step(batch: Any) -> None:
                train_once(model, optimizer, loss_of, (accuracy, mean), *batch)

            tf.distribute.get_strategy().run(step, args=(next(iterator),))
            self.global_step.assign_add(1)

        def train_loop_end(self) -> dict[str, Any]:
            return {"accuracy": accuracy.result(), "loss": mean.result()}

    return Trainer(data)


def main(steps: int) -> None:
    """Trains on command."""
    import orbit

    trainer = small_trainer(steps)
    controllers: dict[int, Any] = {}
    for line in sys.stdin:
        count = int(line)
        if count not in controllers:
            controllers[count] = orbit.Controller(
                global_step=trainer.global_step, trainer=trainer, steps_per_loop=count
            )
        # The controller prints a line a loop; a terminal's time is no part of the comparison.
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            controllers[count].train(
                steps=int(trainer.global_step) + steps, checkpoint_at_completion=False
            )
        print("done", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
