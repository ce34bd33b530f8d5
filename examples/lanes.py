"""Finds the lanes of a road in pictures: segmentation by a small U-Net.

    python examples/lanes.py
    tfdist run --workers=2 --device=cpu examples/lanes.py --pictures=2000

Data: rendered, not filmed. Each picture is a road in perspective that bends, with two lane markings
(one of them dashed in half of the pictures), other light, noise and shadows. The metric is the
intersection of what is found and what is there over their union, on pictures that are held out.
"""

import keras
import numpy as np
from absl import app, flags
from keras import layers

_PICTURES = flags.DEFINE_integer("pictures", 400, "Pictures to train on; a quarter more to test.")
_SIZE = flags.DEFINE_integer("size", 32, "Pixels of a side.")
_EPOCHS = flags.DEFINE_integer("epochs", 8, "Passes over the pictures.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 16, "Pictures a step, over all replicas.")
_SEED = flags.DEFINE_integer("seed", 1, "Of the pictures and the weights.")


def render(count, size, seed):
    """Returns pictures (count, size, size, 3) and where markings are (count, size, size, 1)."""
    draws = np.random.default_rng(seed)
    rows = np.linspace(0.0, 1.0, size)[:, None]  # 0 is the horizon
    columns = np.linspace(-1.0, 1.0, size)[None, :]
    pictures, markings = [], []
    for _ in range(count):
        bend, shift = draws.uniform(-0.8, 0.8), draws.uniform(-0.2, 0.2)
        middle = shift * rows + bend * (1 - rows) ** 2
        half = 0.12 + 0.68 * rows  # of the road, which narrows to the horizon
        is_road = np.abs(columns - middle) < half
        mark = np.zeros((size, size), bool)
        for side, is_dashed in ((-0.75, draws.random() < 0.5), (0.75, False)):
            line = np.abs(columns - middle - side * half) < 0.02 + 0.05 * rows
            gaps = np.sin(14 / (0.25 + rows) + draws.uniform(0, 6)) > -0.3
            mark |= line & (gaps if is_dashed else True)
        light = draws.uniform(0.5, 1.0)
        picture = np.where(is_road, 0.35, 0.55)[..., None] * np.array([1.0, 1.05, 0.95])
        picture[mark] = draws.uniform(0.5, 0.9)
        begin = draws.uniform(-1, 0.8)
        shadow = np.where((columns > begin) & (columns < begin + 0.3), 0.6, 1.0)
        picture = light * picture * shadow[..., None] + draws.normal(0, 0.08, picture.shape)
        pictures.append(picture)
        markings.append(mark[..., None])
    return np.array(pictures, "float32"), np.array(markings, "float32")


def build_model(size):
    """Returns a U-Net of three levels; batch normalization is that of the whole batch."""

    def block(x, filters):
        for _ in range(2):
            x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
            x = layers.BatchNormalization(momentum=0.9, synchronized=True)(x)
            x = layers.Activation("gelu")(x)
        return x

    inputs = keras.Input((size, size, 3))
    first = block(inputs, 8)
    second = block(layers.MaxPooling2D()(first), 16)
    third = block(layers.MaxPooling2D()(second), 24)
    x = layers.Concatenate()([layers.UpSampling2D()(third), second])
    x = layers.Concatenate()([layers.UpSampling2D()(block(x, 16)), first])
    return keras.Model(inputs, layers.Conv2D(1, 1, activation="sigmoid")(block(x, 8)))


def main(argv):
    del argv
    keras.utils.set_random_seed(_SEED.value)
    x, y = render(_PICTURES.value + _PICTURES.value // 4, _SIZE.value, _SEED.value)
    train, test = slice(_PICTURES.value), slice(_PICTURES.value, None)
    model = build_model(_SIZE.value)
    model.compile(
        keras.optimizers.Adam(5e-3, global_clipnorm=1.0),
        keras.losses.BinaryCrossentropy(),
        metrics=[keras.metrics.BinaryIoU([1], name="iou")],
    )
    model.fit(
        x[train], y[train], batch_size=_BATCH_SIZE.value, epochs=_EPOCHS.value, verbose=2
    )
    found = model.evaluate(x[test], y[test], return_dict=True, verbose=0)
    print(f"test_iou={found['iou']:.4f}")


if __name__ == "__main__":
    app.run(main)
