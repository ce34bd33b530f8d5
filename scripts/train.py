"""Trains a small network on the handwritten digits, on whatever there is.

On one device, on four replicas of this machine's CPU, on two workers:

    python scripts/train.py --device=cpu
    python scripts/train.py --device=4xcpu
    python -m tfdist.launch --workers=2 scripts/train.py --device=cpu

The same seed gives the same weights on all of them, to rounding. With `--checkpoint_dir`, the same
command again goes on where the last one stopped.
"""

from __future__ import annotations

import time

import keras
import tensorflow as tf
from absl import app, flags

import tfdist

_DEVICE = flags.DEFINE_string(
    "device", "auto", "What each worker trains on: cpu, 4xcpu, gpu, gpu:0,3, tpu, ... or auto."
)
_MODEL = flags.DEFINE_enum("model", "cnn", ["mlp", "cnn"], "Network to train.")
_EPOCHS = flags.DEFINE_integer("epochs", 20, "Passes over the training set.", lower_bound=1)
_GLOBAL_BATCH_SIZE = flags.DEFINE_integer(
    "global_batch_size", 64, "Examples per step, over all replicas of all workers.", lower_bound=1
)
_LEARNING_RATE = flags.DEFINE_float("learning_rate", 2e-3, "Step size of Adam.", lower_bound=0.0)
_DROPOUT = flags.DEFINE_float("dropout", 0.25, "Fraction of units dropped.", 0.0, 0.95)
_STEPS_PER_EXECUTION = flags.DEFINE_integer(
    "steps_per_execution", 1, "Steps per traced call; 1 lets tfdist choose.", lower_bound=1
)
_CHECKPOINT_DIR = flags.DEFINE_string(
    "checkpoint_dir", None, "Folder to save to and to resume from; none by default."
)
_SEED = flags.DEFINE_integer("seed", 1, "Seed of weights, dropout and the order of examples.")
_VERBOSE = flags.DEFINE_integer("verbose", 2, "0 silent, 1 progress bar, 2 a line per epoch.")


def build_model(name: str, *, dropout: float) -> keras.Model:
    """Returns the named network for 8x8 images with values 0 to 16.

    Smooth activations: each kink of a ReLU turns a difference in the last bit of a sum, which every
    other grouping of the examples makes, into one in the first digits after a few hundred steps.
    """
    layers = keras.layers
    head = [layers.Dropout(dropout), layers.Dense(10, activation="softmax")]
    body = {
        "mlp": [layers.Flatten(), *(layers.Dense(64, activation="tanh") for _ in range(2))],
        "cnn": [
            layers.Conv2D(16, 3, activation="tanh"),
            layers.Conv2D(32, 3, activation="tanh"),
            layers.Flatten(),
            layers.Dense(64, activation="tanh"),
        ],
    }[name]
    return keras.Sequential(
        [keras.Input((8, 8)), layers.Rescaling(1 / 16), layers.Reshape((8, 8, 1)), *body, *head]
    )


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments {argv[1:]}; flags are given as --name=value.")
    tf.get_logger().setLevel("WARNING")  # it tells of each collective, twice under absl
    print(f"a network ({_MODEL.value}) for the digits, {_EPOCHS.value} epochs", flush=True)
    strategy = tfdist.get_strategy(_DEVICE.value)
    print(tfdist.describe(strategy))
    print(f"replicas={strategy.num_replicas_in_sync}")

    keras.utils.set_random_seed(_SEED.value)
    (x_train, y_train), (x_test, y_test) = tfdist.datasets.load_digits()
    report_share(strategy, len(x_train))

    with strategy.scope():
        model = build_model(_MODEL.value, dropout=_DROPOUT.value)
        model.compile(
            # Adam divides by the gradient's own size: an epsilon keeps it from blowing up rounding.
            optimizer=keras.optimizers.Adam(_LEARNING_RATE.value, epsilon=1e-3),
            loss="sparse_categorical_crossentropy",
            metrics=["accuracy"],
            steps_per_execution=_STEPS_PER_EXECUTION.value,
        )

    start, epochs = time.perf_counter(), []  # those of this process: a run may go on
    history = tfdist.fit(
        model,
        x_train,
        y_train,
        batch_size=_GLOBAL_BATCH_SIZE.value,
        epochs=_EPOCHS.value,
        verbose=_VERBOSE.value,
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=lambda e, logs: epochs.append(e))],
        checkpoint_dir=_CHECKPOINT_DIR.value or None,
    )
    secs = time.perf_counter() - start

    logs = tfdist.evaluate(model, x_test, y_test, return_dict=True, verbose=0)
    print(f"final_loss={history.history['loss'][-1]!r}")
    print(f"examples_per_second={len(x_train) * len(epochs) / secs:.0f}")
    print(f"test_accuracy={logs['accuracy']:.4f}")


def report_share(strategy: tf.distribute.Strategy, num_examples: int) -> None:
    """Prints how many examples of an epoch this worker trains on.

    tfdist splits each global batch evenly over all replicas, and each example is on exactly one.
    """
    dataset = tf.data.Dataset.range(num_examples).batch(_GLOBAL_BATCH_SIZE.value)
    local = strategy.experimental_local_results
    batches = tfdist.distribute_dataset(dataset, strategy)
    mine = sum(len(rows) for batch in batches for rows in local(batch))
    print(f"examples={mine} of {num_examples} are this worker's in each epoch")


if __name__ == "__main__":
    app.run(main)
