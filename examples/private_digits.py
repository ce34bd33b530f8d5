"""Recognises handwritten digits, and bounds what the model can tell of any one of them.

    python examples/private_digits.py --epsilon=2
    tfdist run --device=2xcpu examples/private_digits.py
    tfdist run --workers=2 --device=cpu examples/private_digits.py --epsilon=8

Data: 1,797 scanned digits of 8 x 8 pixels (Alpaydin and Kaynak, CC BY 4.0), which ship with tfdist.
Nobody has to hide these: they stand for data that must not show, see docs/private_training.md.
"""

import keras
from absl import app, flags
from keras import layers

from tfdist import datasets, fit, privacy

_EPSILON = flags.DEFINE_float("epsilon", 8.0, "What the model may tell of one image.")
_DELTA = flags.DEFINE_float("delta", 1e-4, "Probability with which it may tell more.")
_EPOCHS = flags.DEFINE_integer("epochs", 50, "How often each image is seen, in the mean.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Images of a step, in the mean.")
_CLIP = flags.DEFINE_float("clip", 0.5, "The most that the gradient of one image counts.")
_LEARNING_RATE = flags.DEFINE_float("learning_rate", 4e-3, "Of Adam.")
_SEED = flags.DEFINE_integer("seed", 1, "Of the weights; examples and noise have none.")


def build_model():
    """Returns a CNN without batch normalization, which would mix the images of a step."""
    return keras.Sequential([
        keras.Input((8, 8)),
        layers.Rescaling(1 / 16),
        layers.Reshape((8, 8, 1)),
        layers.Conv2D(16, 3, padding="same", activation="tanh"),
        layers.Conv2D(16, 3, strides=2, padding="same", activation="tanh"),
        layers.Flatten(),
        layers.Dense(32, activation="tanh"),
        layers.Dense(10),
    ])


def main(argv):
    del argv
    keras.utils.set_random_seed(_SEED.value)
    (x, y), (x_test, y_test) = datasets.load_digits()
    model = build_model()
    model.compile(
        keras.optimizers.Adam(_LEARNING_RATE.value),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    history = fit(
        model, x, y, epochs=_EPOCHS.value, verbose=2,
        privacy=privacy.DPSGD(
            l2_norm_clip=_CLIP.value, target_epsilon=_EPSILON.value, delta=_DELTA.value,
            expected_batch_size=_BATCH_SIZE.value,
        ),
    )
    _, accuracy = model.evaluate(x_test, y_test, verbose=0)
    print(f"epsilon={history.history['epsilon'][-1]:.2f} delta={_DELTA.value}")
    print(f"test_accuracy={accuracy:.4f}")


if __name__ == "__main__":
    app.run(main)
