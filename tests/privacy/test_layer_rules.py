"""Are the sums of clipped gradients those of a loop over single examples, for each ruled layer?"""

from __future__ import annotations

import itertools
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfdist.privacy import ghost, layer_rules, recording
from tfdist.privacy.ruled import ruled_layers

pytestmark = pytest.mark.usefixtures("float64")
_ROWS, _NORM = 7, 0.3
_L = keras.layers


def _attention() -> keras.Model:
    given = keras.Input((5, 4))
    seen = _L.MultiHeadAttention(2, 3)(given, given)
    return keras.Model(given, _L.Flatten()(_L.LayerNormalization()(_L.Add()([given, seen]))))


def _called_twice() -> keras.Model:
    given, layer = keras.Input((3, 4)), _L.Dense(4, "tanh")
    return keras.Model(given, layer(layer(given)))


def _of(shape: tuple[int, ...], *layers: Any, dtype: str = "float64") -> keras.Model:
    return keras.Sequential([keras.Input(shape, dtype=dtype), *layers])


def _einsum(equation: str, shape: Any, bias: str | None) -> keras.Model:
    return _of((4, 3), _L.EinsumDense(equation, output_shape=shape, bias_axes=bias))


_MODELS = {
    "Dense of rows": lambda: _of((4,), _L.Dense(8, "tanh")),
    "Dense without bias": lambda: _of((4,), _L.Dense(8, use_bias=False)),
    "Dense of timesteps, smaller than their products": lambda: _of((5, 4), _L.Dense(2)),
    "Dense of timesteps, by their products": lambda: _of((3, 8), _L.Dense(7, "relu")),
    "Dense, called twice": _called_twice,
    "EinsumDense": lambda: _einsum("abc,cd->abd", (4, 5), "d"),
    "EinsumDense with an ellipsis": lambda: _einsum("...x,xy->...y", 5, "y"),
    "EinsumDense over the first axis": lambda: _einsum("abc,bd->adc", (5, 3), "dc"),
    "EinsumDense without bias": lambda: _einsum("abc,cde->abde", (4, 2, 3), None),
    "Conv1D": lambda: _of((6, 2), _L.Conv1D(3, 3, strides=2, padding="same")),
    "Conv2D": lambda: _of((6, 5, 2), _L.Conv2D(3, (2, 3), strides=2, padding="same")),
    "Conv2D with holes": lambda: _of((6, 6, 2), _L.Conv2D(3, 2, dilation_rate=2)),
    "Embedding": lambda: _of((5,), _L.Embedding(4, 3), dtype="int32"),
    "LayerNormalization": lambda: _of((4, 3), _L.LayerNormalization(axis=[1, 2])),
    "LayerNormalization without scale": lambda: _of((4, 3), _L.LayerNormalization(scale=False)),
    "LayerNormalization without shift": lambda: _of((4, 3), _L.LayerNormalization(center=False)),
    "RMSNormalization": lambda: _of((4, 3), _L.RMSNormalization()),
    "GroupNormalization": lambda: _of((4, 2, 6), _L.GroupNormalization(3)),
    "MultiHeadAttention": _attention,
}


def _data(model: keras.Model) -> tuple[np.ndarray, np.ndarray]:
    rng, (given,) = np.random.default_rng(0), model.inputs
    shape = (_ROWS, *given.shape[1:])
    x = rng.integers(0, 4, shape) if "int" in given.dtype else rng.normal(size=shape)
    return x, rng.normal(size=(_ROWS, *model.output_shape[1:]))


def _losses(model: keras.Model, x: Any, y: Any) -> Any:
    return tf.reduce_sum(tf.reshape(model(x, training=True) * y, [len(x), -1]), 1)


def _ghost(model: keras.Model, x: Any, y: Any, counts: Any) -> list[np.ndarray]:
    layers = ruled_layers(model)
    assert layers
    with recording.listening(layers):
        sums = ghost.clipped_sums(
            layers, model.trainable_variables, lambda: _losses(model, x, y), rows=len(x),
            counts=tf.constant(counts), norm=_NORM,
        )
    return [total.numpy() for total in sums]


def _loop(model: keras.Model, x: Any, y: Any, counts: Any) -> list[np.ndarray]:
    values = [v.value for v in model.trainable_variables]
    sums = [np.zeros(v.shape) for v in values]
    for row in np.flatnonzero(counts):
        with tf.GradientTape() as tape:
            loss = _losses(model, x[row : row + 1], y[row : row + 1])
        own = [tf.convert_to_tensor(g).numpy() for g in tape.gradient(loss, values)]
        norm = np.sqrt(sum(np.sum(g**2) for g in own))
        sums = [s + g * min(1, _NORM / norm) for s, g in zip(sums, own, strict=True)]
    return sums


@pytest.mark.parametrize("name", _MODELS)
def test_sums_are_those_of_a_loop(name):
    keras.utils.set_random_seed(1)
    model = _MODELS[name]()
    for weight in model.trainable_variables:  # no bias is 0, and no scale 1
        weight.assign(weight + 0.3 * keras.random.normal(weight.shape))
    x, y = _data(model)
    y[:2] *= 1e-3  # which are not clipped
    counts = np.arange(_ROWS) != 3
    found, expected = _ghost(model, x, y, counts), _loop(model, x, y, counts)
    for own, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-11, atol=1e-12)


def _own_call(**kwargs: Any) -> keras.Model:
    kind = type("Doubled", (_L.Dense,), {"call": lambda self, x: 2 * super(kind, self).call(x)})
    return _of((4,), kind(2))


@pytest.mark.parametrize(
    "make",
    [
        lambda: _of((4, 3), _L.LSTM(2)),
        lambda: _of((6, 6, 2), _L.Conv2D(4, 2, groups=2)),
        lambda: _of((6, 6, 2), _L.DepthwiseConv2D(2)),
        lambda: _of((4, 3), _L.TimeDistributed(_L.Dense(2))),
        lambda: _of((4, 3), _L.Lambda(lambda x: x - keras.ops.mean(x, 0)), _L.Dense(2)),
        _own_call,
    ],
)
def test_other_layers_have_no_rule(make):
    assert ruled_layers(make()) is None


def test_a_mean_over_the_batch_in_a_functional_model_has_no_rule():
    given = keras.Input((4,))
    mixed = given - keras.ops.mean(given, axis=0, keepdims=True)
    assert ruled_layers(keras.Model(given, _L.Dense(2)(mixed))) is None


def test_lora_has_no_rule():
    model = _of((4,), _L.Dense(3))
    model.layers[0].enable_lora(2)
    assert ruled_layers(model) is None


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("is_known", [True, False])
def test_patches_are_those_of_tensorflow(padding: str, is_known: bool) -> None:
    images = np.random.default_rng(0).normal(size=(2, 10, 9, 3))
    signature = [tf.TensorSpec(images.shape if is_known else [None, None, None, 3], tf.float64)]
    sizes = itertools.product([(1, 2), (3, 3)], [(1, 1), (3, 2)], [(1, 1), (2, 3)])
    for size, stride, rate in sizes:

        def patches(given: Any, size: Any = size, stride: Any = stride, rate: Any = rate) -> Any:
            around = layer_rules._padded(given, size, stride, rate) if padding == "same" else given
            return layer_rules._patches(around, size, stride, rate)

        found = tf.function(patches, input_signature=signature)(images)
        expected = tf.image.extract_patches(
            images, [1, *size, 1], [1, *stride, 1], [1, *rate, 1], padding.upper()
        )
        assert found.numpy().tobytes() == expected.numpy().tobytes(), (size, stride, rate)
