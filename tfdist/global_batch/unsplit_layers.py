"""Which of Keras's layers mean something that only a whole batch shows, and are refused?"""

from __future__ import annotations

from typing import Any

import keras

from tfdist.compat import keras_internals

# What layers that augment images do to all of a batch. RandAugment has an Equalization in it.
_OF_A_BATCH = {
    keras.layers.AugMix: "chooses by Python's random what it does to the images of a batch",
    keras.layers.CutMix: "mixes the images of a batch with each other",
    keras.layers.Equalization: "makes one histogram of all images of a batch",
    keras.layers.MixUp: "mixes the images of a batch with each other",
}


def refuse(model: keras.Model, num_replicas: int) -> None:
    """Refuses a model with layers that replicas cannot train.

    Args:
        model: The model, built.
        num_replicas: Replicas of all workers.

    Raises:
        ValueError: A layer augments a whole batch, or is quantized to float8.
    """
    if num_replicas == 1:
        return
    for layer in keras_internals.flat_layers(model):
        for kind, what in _OF_A_BATCH.items():
            if isinstance(layer, kind):
                raise ValueError(
                    f"The {kind.__name__} {layer.name!r} {what}, of which each of the "
                    f"{num_replicas} replicas sees its share only. Use it in the data, "
                    "dataset.batch(n).map(layer), or train on one device."
                )
    refuse_overwritten(model.trainable_variables, num_replicas)


def refuse_overwritten(variables: Any, num_replicas: int) -> None:
    """Refuses variables that are overwritten with their gradients, which are no sums over rows.

    Args:
        variables: The variables that are trained.
        num_replicas: Replicas of all workers.

    Raises:
        ValueError: There are such variables.
    """
    names = [v.path for v in variables if getattr(v, "overwrite_with_gradient", False)]
    if names and num_replicas > 1:
        raise ValueError(
            f"{names[0]!r} follows the largest number of a whole batch, to quantize it to "
            f"float8, but each of the {num_replicas} replicas sees its rows only. Train in "
            "'mixed_bfloat16' and quantize afterwards, or train on one device."
        )
