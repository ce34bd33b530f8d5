"""Predicts for rows of which memory holds a few, into Parquet files, on any number of workers.

    python examples/predictions.py --to=predictions
    tfdist run --workers=2 --device=cpu examples/predictions.py --to=predictions_of_two

A job that was stopped goes on with the files that are missing when it is called again; those that
are there stay. A saved model needs no program: `tfdist predict`, see docs/inference.md.

Data: 1,797 scanned digits of 8 x 8 pixels (Alpaydin and Kaynak, CC BY 4.0), which ship with tfdist.
Each is seen nine times, moved by up to a pixel; these rows are made as they are read. The metric is
the accuracy of the mean of an image's nine predictions, read back from the files.
"""

import keras
import numpy as np
from absl import app, flags
from keras import layers
from pyarrow import parquet

from tfdist import datasets, inference, predict_to

_TO = flags.DEFINE_string("to", "predictions", "Folder of the predictions, seen by all workers.")
_EPOCHS = flags.DEFINE_integer("epochs", 15, "Passes over the images to train on.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Images a step, over all replicas.")
_PART_ROWS = flags.DEFINE_integer("part_rows", 512, "Rows of a file.")
_SEED = flags.DEFINE_integer("seed", 1, "Of the weights and their order.")
_MOVES = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]


class MovedImages:
    """Rows of which none is kept: a source of one's own needs these three methods."""

    def __init__(self, images):
        self._images = images

    def __len__(self):
        return len(self._images) * len(_MOVES)

    def describe(self):
        """Returns what has to be the same where a job goes on."""
        return ["moved digits", len(self), int(self._images.sum())]

    def read(self, begin, end):
        """Reads the rows from number `begin` up to `end`."""
        ids = np.arange(begin, end)
        numbers, moves = np.divmod(ids, len(_MOVES))
        rows = [
            np.roll(self._images[number], _MOVES[move], axis=(0, 1))
            for number, move in zip(numbers, moves, strict=True)
        ]
        return inference.Block(np.stack(rows), ids)


def build_model():
    """Returns a small CNN, which sees moved images while it trains."""
    return keras.Sequential([
        keras.Input((8, 8)),
        layers.Rescaling(1 / 16),
        layers.Reshape((8, 8, 1)),
        layers.RandomTranslation(0.125, 0.125, fill_mode="wrap"),
        layers.Conv2D(16, 3, padding="same", activation="gelu"),
        layers.Conv2D(32, 3, activation="gelu"),
        layers.Flatten(),
        layers.Dense(10, activation="softmax"),
    ])


def main(argv):
    del argv
    keras.utils.set_random_seed(_SEED.value)
    (x, y), (x_test, y_test) = datasets.load_digits()
    model = build_model()
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(x, y, batch_size=_BATCH_SIZE.value, epochs=_EPOCHS.value, verbose=2)
    done = predict_to(
        model, MovedImages(x_test), _TO.value, batch_size=_BATCH_SIZE.value,
        part_rows=_PART_ROWS.value,
    )
    written = parquet.read_table(_TO.value)  # a frame or a database would do as well
    if written["id"].to_pylist() != list(range(done.rows)):
        raise SystemExit(f"{_TO.value} does not hold each row once.")
    chances = np.asarray(written["prediction"].to_pylist()).reshape(len(x_test), len(_MOVES), 10)
    accuracy = (chances.mean(axis=1).argmax(axis=-1) == y_test).mean()
    print(f"{done.rows} rows in {len(list(done.folder.glob('part-*')))} files")
    print(f"test_accuracy={accuracy:.4f}")


if __name__ == "__main__":
    app.run(main)
