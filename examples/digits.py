"""Recognises handwritten digits with a small CNN: plain Keras, but for where the data comes from.

    python examples/digits.py
    tfdist run --device=2xcpu examples/digits.py
    tfdist run --workers=2 --device=cpu examples/digits.py --epochs=20

Data: 1,797 scanned digits of 8 x 8 pixels (Alpaydin and Kaynak, CC BY 4.0), which ship with tfdist.
"""

import keras
from absl import app, flags
from keras import layers

from tfdist import datasets

_EPOCHS = flags.DEFINE_integer("epochs", 15, "Passes over the 1,437 images to train on.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Images a step, over all replicas.")
_LEARNING_RATE = flags.DEFINE_float("learning_rate", 2e-3, "Of AdamW, before it decays.")
_SEED = flags.DEFINE_integer("seed", 1, "Of the weights, dropout and augmentation.")


def build_model():
    """Returns a CNN that shifts and turns the images while it trains."""
    return keras.Sequential([
        keras.Input((8, 8)),
        layers.Rescaling(1 / 16),
        layers.Reshape((8, 8, 1)),
        layers.RandomTranslation(0.1, 0.1),
        layers.RandomRotation(0.04),
        layers.Conv2D(16, 3, padding="same", activation="gelu"),
        layers.Conv2D(32, 3, activation="gelu"),
        layers.MaxPooling2D(),
        layers.Flatten(),
        layers.Dense(64, activation="gelu"),
        layers.Dropout(0.3),
        layers.Dense(10),
    ])


def main(argv):
    del argv
    keras.utils.set_random_seed(_SEED.value)
    (x, y), (x_test, y_test) = datasets.load_digits()
    steps = _EPOCHS.value * -(-len(x) // _BATCH_SIZE.value)
    model = build_model()
    model.compile(
        keras.optimizers.AdamW(
            keras.optimizers.schedules.CosineDecay(_LEARNING_RATE.value, steps),
            global_clipnorm=1.0,
        ),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(x, y, batch_size=_BATCH_SIZE.value, epochs=_EPOCHS.value, verbose=2)
    _, accuracy = model.evaluate(x_test, y_test, verbose=0)
    print(f"test_accuracy={accuracy:.4f}")


if __name__ == "__main__":
    app.run(main)
