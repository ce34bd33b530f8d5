"""Do all layers of a model have a rule for the gradients of each example?

If not, examples are computed one by one, which is right for any layer.
"""

from __future__ import annotations

from typing import Any

import keras

from tfdist.compat import keras_internals
from tfdist.privacy.layer_rules import RULES, has_rule
from tfdist.step import own_code

# Classes that treat each row by itself.
_ROWWISE = {
    getattr(keras.layers, name)
    for name in (
        "Activation", "Add", "AdditiveAttention", "AlphaDropout", "Attention", "Average",
        "AveragePooling1D", "AveragePooling2D", "AveragePooling3D", "CategoryEncoding",
        "Concatenate", "Cropping1D", "Cropping2D", "Dot", "Dropout", "ELU", "Flatten",
        "GaussianDropout", "GaussianNoise", "GlobalAveragePooling1D", "GlobalAveragePooling2D",
        "GlobalMaxPooling1D", "GlobalMaxPooling2D", "GroupQueryAttention", "InputLayer",
        "LeakyReLU", "Masking", "MaxPooling1D", "MaxPooling2D", "Maximum", "Minimum",
        "MultiHeadAttention", "Multiply", "Normalization", "Permute", "ReLU", "RepeatVector",
        "Rescaling", "Reshape", "Softmax", "SpatialDropout1D", "SpatialDropout2D", "Subtract",
        "UpSampling1D", "UpSampling2D", "ZeroPadding1D", "ZeroPadding2D",
    )
} | {keras.Sequential}  # fmt: skip


def ruled_layers(model: keras.Model) -> list[Any] | None:
    """Returns a model's layers with trainable weights, if all of them are ruled; else None.

    Every trainable weight has to belong to one layer alone, and all other layers, losses and
    operations have to be known to treat each row by itself.
    """
    if own_code.own_code_of_gradients(model):
        return None
    found = []
    for layer in keras_internals.flat_layers(model):
        if type(layer) in RULES:
            found.append(layer)
        elif type(layer) not in _ROWWISE and not _is_graph(layer):
            return None
    found = [layer for layer in found if layer.trainable_variables]
    if not all(has_rule(layer) for layer in found):
        return None
    owned = [id(weight) for layer in found for weight in layer.trainable_variables]
    trained = [id(weight) for weight in model.trainable_variables]
    return found if sorted(owned) == sorted(trained) else None


def _is_graph(layer: Any) -> bool:
    """Tells whether a layer is a model of Keras's own class that is a graph of layers."""
    kind = type(layer)
    return kind.__name__ == "Functional" and kind.__module__.partition(".")[0] == "keras"
