"""Rows: layers that draw. N replicas draw what one device draws for the same examples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from parity import data, models
from parity.case import WORLDS, Case

layers = keras.layers

_DROPOUTS: dict[str, Callable[[], Any]] = {
    "Dropout": lambda: layers.Dropout(0.4),
    "Dropout with noise_shape": lambda: layers.Dropout(0.4, noise_shape=(None, 1)),
    "AlphaDropout": lambda: layers.AlphaDropout(0.3),
    "GaussianDropout": lambda: layers.GaussianDropout(0.3),
    "GaussianNoise": lambda: layers.GaussianNoise(0.3),
}
_SPATIAL: dict[str, Callable[[], Any]] = {
    "SpatialDropout2D": lambda: layers.SpatialDropout2D(0.4),
    "SpatialDropout1D": lambda: keras.Sequential(
        [layers.Reshape((64, 3)), layers.SpatialDropout1D(0.4)]
    ),
    "SpatialDropout3D": lambda: keras.Sequential(
        [layers.Reshape((4, 4, 4, 3)), layers.SpatialDropout3D(0.4)]
    ),
    "Dropout of folded time": lambda: layers.TimeDistributed(layers.Dropout(0.4)),
}


class DrawnWithoutSeed(layers.Layer):
    """Draws from Keras's global generator."""

    def call(self, x: Any, training: bool = False) -> Any:
        noise = keras.random.normal(keras.ops.shape(x))
        return x + 0.1 * noise if training else x


class DrawnForWeights(layers.Layer):
    """Draws one number for each feature, the same for all examples: noise on weights."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.seed = keras.random.SeedGenerator(3)

    def call(self, x: Any, training: bool = False) -> Any:
        noise = keras.random.normal((x.shape[-1],), seed=self.seed)
        return x * (1 + 0.1 * noise) if training else x


class EveryDistribution(layers.Layer):
    """Draws from each of Keras's distributions, one number an example and feature."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.seed = keras.random.SeedGenerator(3)

    def call(self, x: Any, training: bool = False) -> Any:
        if not training:
            return x
        shape = keras.ops.shape(x)
        drawn = [
            keras.random.uniform(shape, -1, 2, seed=self.seed),
            keras.random.normal(shape, 1.0, 0.5, seed=self.seed),
            keras.random.truncated_normal(shape, seed=self.seed),
            keras.random.gamma(shape, 2.0, seed=self.seed),
            keras.random.beta(shape, 2.0, 3.0, seed=self.seed),
            keras.random.binomial(shape, 5.0, 0.4, seed=self.seed),
            keras.ops.cast(keras.random.randint(shape, 0, 9, seed=self.seed), x.dtype),
            keras.ops.cast(keras.random.categorical(x, 4, seed=self.seed), x.dtype),
        ]
        return x + 0.01 * sum(drawn)


# Augmentations, each with arguments that make it do something.
_AUGMENTATIONS: dict[str, dict[str, Any]] = {
    "RandomBrightness": {"factor": 0.3, "value_range": (0, 1)},
    "RandomColorDegeneration": {"factor": 0.5, "value_range": (0, 1)},
    "RandomColorJitter": {"brightness_factor": 0.3, "contrast_factor": 0.3, "value_range": (0, 1)},
    "RandomContrast": {"factor": 0.5, "value_range": (0, 1)},
    "RandomCrop": {"height": 6, "width": 5},
    "RandomErasing": {"factor": 1.0, "value_range": (0, 1)},
    "RandomFlip": {},
    "RandomGaussianBlur": {"factor": 1.0, "value_range": (0, 1)},
    "RandomGrayscale": {"factor": 0.5},
    "RandomHue": {"factor": 0.5, "value_range": (0, 1)},
    "RandomInvert": {"factor": 0.5, "value_range": (0, 1)},
    "RandomPerspective": {"factor": 1.0},
    "RandomPosterization": {"factor": 4, "value_range": (0, 1)},
    "RandomRotation": {"factor": 0.3},
    "RandomSaturation": {"factor": 0.9, "value_range": (0, 1)},
    "RandomSharpness": {"factor": 0.9, "value_range": (0, 1)},
    "RandomShear": {"x_factor": 0.3, "y_factor": 0.3},
    "RandomTranslation": {"height_factor": 0.3, "width_factor": 0.3},
    "RandomZoom": {"height_factor": 0.3},
}


# A crop's images are of another size where nothing is cropped.
_AFTER = {"RandomCrop": (layers.GlobalAveragePooling2D,)}
_IN_FLOAT32 = ("RandomRotation",)  # Keras 3.15 fails in float64


def _images_in_float32() -> dict[str, Any]:
    made = data.images()
    return {**made, "x": made["x"].astype("float32")}


# Where the batch's size is not known while tracing, Keras 3.15 gives every image the first one's
# place: there is no right result to compare with.
_APART = ("RandomElasticTransform",)


def augmentations() -> dict[str, Callable[[], Any]]:
    """Returns the augmentation layers of the installed Keras, found by listing."""
    names = [n for n in dir(layers) if n.startswith("Random") and n not in _APART]
    return {
        name: lambda name=name: getattr(layers, name)(**_AUGMENTATIONS.get(name, {}))
        for name in names
    }


class OwnLoss(keras.Sequential):
    """Asks in `compute_loss` how many rows there are, and draws as many numbers."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True) -> Any:
        loss = keras.losses.sparse_categorical_crossentropy(y, y_pred)
        if not training:
            return keras.ops.mean(loss)
        drawn = keras.random.uniform((y_pred.shape[0],), seed=self.layers[1].seed_generator)
        return keras.ops.mean(loss * drawn)


def _with_own_loss() -> keras.Model:
    head = layers.Dense(data.CLASSES, activation="softmax")
    model = OwnLoss([keras.Input((data.FEATURES,)), layers.Dense(4), layers.Dropout(0.4), head])
    return models.compiled(model)


def _of_fixed_size(size: int) -> Callable[[], dict[str, Any]]:
    """Batches whose size stands in their shape, as `drop_remainder=True` makes them."""

    def make() -> dict[str, Any]:
        dataset = tf.data.Dataset.from_tensor_slices((data.features(24), data.labels(24)))
        return {"x": dataset.batch(size, drop_remainder=True)}

    return make


ROWS = (
    Case(
        name="Dropout and noise, batches of fixed size",
        build=models.mlp(models.momentum, _DROPOUTS["Dropout"], _DROPOUTS["GaussianNoise"]),
        data=_of_fixed_size(7),
        worlds=WORLDS,
        quick=True,
    ),
    Case(
        name="Dropout, batches of fixed size that are smaller than the replicas",
        build=models.mlp(models.momentum, _DROPOUTS["Dropout"]),
        data=_of_fixed_size(2),
        worlds=("4", "3 workers"),
    ),
    # A replica has as many rows as there are features, which a draw could be taken for.
    Case(
        name="draws of the size of weights, batches of fixed size",
        build=models.mlp(models.momentum, DrawnForWeights),
        data=_of_fixed_size(8),
        worlds=("2",),
    ),
    Case(
        name="Dropout of a loss of its own, batches of fixed size",
        build=_with_own_loss,
        data=_of_fixed_size(8),
        worlds=("2", "2 workers"),
    ),
    *(
        Case(
            name=name,
            build=models.mlp(models.momentum, make),
            data=data.plain,
            then=(),
            worlds=WORLDS if name == "Dropout" else ("4", "2 workers"),
            quick=name == "Dropout",
        )
        for name, make in _DROPOUTS.items()
    ),
    *(
        Case(name, models.classifier_of_images(make), data.images, then=(), worlds=("4",))
        for name, make in _SPATIAL.items()
    ),
    *(
        Case(
            name=f"augmentation {name}",
            build=models.classifier_of_images(make, *_AFTER.get(name, ())),
            data=data.images if name not in _IN_FLOAT32 else _images_in_float32,
            then=(),
            floatx="float32" if name in _IN_FLOAT32 else "float64",
            tolerance=1e-5 if name in _IN_FLOAT32 else 1e-9,
            worlds=("2 workers", "3 workers", "2") if name == "RandomFlip" else ("2",),
        )
        for name, make in augmentations().items()
    ),
    Case(
        name="draws from every distribution",
        build=models.mlp(models.momentum, EveryDistribution),
        data=data.plain,
        then=(),
        worlds=WORLDS,
    ),
    Case(
        name="draws of the size of weights",
        build=models.mlp(models.momentum, DrawnForWeights),
        data=data.plain,
        then=(),
    ),
    Case(
        name="draws without a seed",
        build=models.mlp(models.momentum, DrawnWithoutSeed),
        data=data.plain,
        then=(),
    ),
)
