"""What is the rule for the gradients of each example, for a layer?

A rule takes the calls of a layer in one forward pass, and gives the gradients of its weights in the
forms of factors.py. Several calls of one layer are positions of one product. A layer is ruled only
if it is one of Keras's own classes, as they are: a subclass may do anything.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from tfdist.privacy import factors
from tfdist.privacy.factors import Gradient

#: What one call tells: what went in, and the gradient of the loss by what came out.
Calls = Sequence[tuple[Any, Any]]
Rule = Callable[[Any, Calls], dict[str, Gradient]]


class NoRule(Exception):
    """A layer was called in a way that its rule does not know."""


def has_rule(layer: Any) -> bool:
    """Tells whether a layer, which is built, has a rule for all its trainable weights."""
    if type(layer) not in RULES or _is_adapted(layer):
        return False
    own = {id(getattr(layer, name, None)) for name in _WEIGHTS}
    known = all(id(weight) in own for weight in layer.trainable_variables)
    return known and _REQUIRED.get(type(layer), _always)(layer)


def gradients_of(layer: Any, calls: Calls) -> list[tuple[Any, Gradient]]:
    """Returns the gradients of a layer's trainable weights.

    Args:
        layer: A layer that `has_rule`.
        calls: Its calls.

    Raises:
        NoRule: Its rows are not the first axis, or a shape is unknown.
    """
    found = RULES[type(layer)](layer, calls)
    named = {id(getattr(layer, name)): one for name, one in found.items()}
    return [(weight, named[id(weight)]) for weight in layer.trainable_variables]


def _dense(layer: Any, calls: Calls) -> dict[str, Gradient]:
    given = _joined([_positions(one, axes=1) for one, _ in calls])
    back = _joined([_positions(one, axes=1) for _, one in calls])
    return {
        "kernel": factors.of_products(given, back),
        "bias": factors.of_each(tf.reduce_sum(back, 1), [back.shape[2]]),
    }


def _einsum_dense(layer: Any, calls: Calls) -> dict[str, Gradient]:
    of_input, of_kernel, of_output = _labels(layer, calls[0])
    summed = [one for one in of_kernel if one in of_input]
    made = [one for one in of_kernel if one not in of_input]
    kept = [one for one in of_input[1:] if one not in summed]
    given, back = [], []
    for one, gradient in calls:
        given.append(_grouped(one, of_input, kept, summed))
        back.append(_grouped(gradient, of_output, kept, made))
    kernel = factors.of_products(_joined(given), _joined(back))
    sizes = dict(zip(of_kernel, layer.kernel.shape, strict=True))
    order = [[*summed, *made].index(one) for one in of_kernel]
    found = {
        "kernel": Gradient(
            kernel.squares,
            lambda f: tf.transpose(
                tf.reshape(kernel.total(f), [sizes[one] for one in (*summed, *made)]), order
            ),
        )
    }
    if layer.bias is not None:
        shape = list(layer.bias.shape)
        each = sum(_of_shape(gradient, shape) for _, gradient in calls)
        found["bias"] = factors.of_each(each, shape)
    return found


def _labels(layer: Any, call: tuple[Any, Any]) -> tuple[str, str, str]:
    """Returns the labels of input, kernel and output, an ellipsis written out."""
    equation = layer.equation.replace(" ", "")
    of_input, of_kernel, of_output = re.split("->|,", equation)
    if "." in equation:
        free = [one for one in map(chr, range(65, 91)) if one not in equation]
        left = call[0].shape.rank - len(of_input.replace("...", ""))
        of_input, of_output = (
            one.replace("...", "".join(free[:left])) for one in (of_input, of_output)
        )
    kept = set(of_input) - set(of_kernel)
    is_plain = set(of_output) == kept | (set(of_kernel) - set(of_input))
    if not is_plain or "." in of_kernel or of_output[0] != of_input[0] or of_input[0] not in kept:
        raise NoRule(layer.name)
    return of_input, of_kernel, of_output


def _grouped(value: Any, labels: str, kept: Sequence[str], last: Sequence[str]) -> Any:
    """Returns `(rows, positions, entries)`: the axes `kept` are positions, those of `last` not."""
    order = [0, *(labels.index(one) for one in (*kept, *last))]
    return _positions(tf.transpose(value, order), axes=len(last))


def _convolution(layer: Any, calls: Calls) -> dict[str, Gradient]:
    given, back = [], []
    size, stride, rate = (
        _two(getattr(layer, name)) for name in ("kernel_size", "strides", "dilation_rate")
    )
    for one, gradient in calls:
        images = one if layer.rank == 2 else one[:, tf.newaxis]
        if layer.padding == "same":
            images = _padded(images, size, stride, rate)
        patches = _patches(images, size, stride, rate)
        given.append(_positions(patches, axes=1))
        back.append(_positions(gradient, axes=1))
    kernel = factors.of_products(_joined(given), _joined(back))
    shape = list(layer.kernel.shape)
    each = tf.reduce_sum(_joined(back), 1)
    return {
        "kernel": Gradient(kernel.squares, lambda f: tf.reshape(kernel.total(f), shape)),
        "bias": factors.of_each(each, [shape[-1]]),
    }


def _padded(
    images: Any, size: Sequence[int], stride: Sequence[int], rate: Sequence[int]
) -> Any:
    """Returns images with the zeros around them that padding "same" means."""
    lengths = [known or tf.shape(images)[axis] for axis, known in enumerate(images.shape)][1:3]
    around = []
    for length, kernel, step, apart in zip(lengths, size, stride, rate, strict=True):
        missing = (-(-length // step) - 1) * step + (kernel - 1) * apart + 1 - length
        missing = max(missing, 0) if isinstance(missing, int) else tf.maximum(missing, 0)
        around.append([missing // 2, missing - missing // 2])
    return tf.pad(images, [[0, 0], *around, [0, 0]])


def _patches(
    images: Any, size: Sequence[int], stride: Sequence[int], rate: Sequence[int]
) -> Any:
    """Returns what the kernel meets at each place, `(rows, height, width, entries of the kernel)`.

    Of slices: the numbers of `tf.image.extract_patches`, in two thirds of its time or less.
    """

    def along(axis: int) -> list[slice]:
        last, apart = size[axis] - 1, rate[axis]
        return [
            slice(place * apart, (place - last) * apart or None, stride[axis])
            for place in range(last + 1)
        ]

    return tf.concat([images[:, down, right] for down in along(0) for right in along(1)], 3)


def _embedding(layer: Any, calls: Calls) -> dict[str, Gradient]:
    indices = _joined([tf.cast(_flat_positions(one), tf.int32) for one, _ in calls])
    back = _joined([_positions(one, axes=1) for _, one in calls])
    return {"embeddings": factors.of_lookups(indices, back, int(layer.input_dim))}


def _layer_normalization(layer: Any, calls: Calls) -> dict[str, Gradient]:
    axes, epsilon = _several(layer.axis), layer.epsilon
    return _scaled(
        calls, {"gamma": layer.gamma, "beta": layer.beta}, axes,
        lambda x: ops.layer_normalization(x, None, None, layer.axis, epsilon),
    )


def _rms_normalization(layer: Any, calls: Calls) -> dict[str, Gradient]:
    return _scaled(
        calls, {"scale": layer.scale}, _several(layer.axis),
        lambda x: ops.rms_normalization(x, scale=None, axis=layer.axis, epsilon=layer.epsilon),
    )


def _group_normalization(layer: Any, calls: Calls) -> dict[str, Gradient]:
    def normalized(x: Any) -> Any:
        shape = tf.shape(x)
        groups = tf.reshape(x, tf.concat([shape[:-1], [layer.groups, -1]], 0))
        axes = [*range(1, x.shape.rank - 1), x.shape.rank]
        mean, variance = tf.nn.moments(groups, axes, keepdims=True)
        return tf.reshape((groups - mean) * tf.math.rsqrt(variance + layer.epsilon), shape)

    return _scaled(calls, {"gamma": layer.gamma, "beta": layer.beta}, [-1], normalized)


def _scaled(
    calls: Calls, weights: dict[str, Any], axes: Sequence[int], normalized: Callable[[Any], Any]
) -> dict[str, Gradient]:
    """Returns the gradients of a scale, the first of the weights, and of what is added, if any."""
    scale, *shift = (name for name, weight in weights.items() if weight is not None)
    found, shape = {}, list(next(iter(w for w in weights.values() if w is not None)).shape)
    by_scale = sum(_of_axes(back * normalized(given), axes) for given, back in calls)
    by_shift = sum(_of_axes(back, axes) for _, back in calls)
    if "gamma" in weights and weights["gamma"] is None:
        return {scale: factors.of_each(by_shift, shape)}
    found[scale] = factors.of_each(by_scale, shape)
    for name in shift:
        found[name] = factors.of_each(by_shift, shape)
    return found


def _of_axes(value: Any, axes: Sequence[int]) -> Any:
    """Sums over all axes but the rows and `axes`."""
    kept = {0, *(axis % value.shape.rank for axis in axes)}
    return tf.reduce_sum(value, [axis for axis in range(value.shape.rank) if axis not in kept])


def _of_shape(value: Any, shape: Sequence[int]) -> Any:
    """Sums over what a weight of this shape was broadcast over, but not over the rows."""
    rank = value.shape.rank
    aligned = [1] * (rank - len(shape)) + list(shape)
    summed = [axis for axis in range(1, rank) if aligned[axis] == 1]
    return tf.reshape(tf.reduce_sum(value, summed), [tf.shape(value)[0], *shape])


def _positions(value: Any, *, axes: int) -> Any:
    """Returns `(rows, positions, entries)`; the last `axes` are entries."""
    shape = value.shape.as_list()
    inner, last = shape[1 : len(shape) - axes], shape[len(shape) - axes :]
    if len(shape) < 1 + axes or None in last:
        raise NoRule(str(shape))
    positions = -1 if None in inner else int(np.prod(inner))
    rows = shape[0] if shape[0] is not None else tf.shape(value)[0]
    return tf.reshape(value, [rows, positions, int(np.prod(last))])


def _flat_positions(value: Any) -> Any:
    positions = int(np.prod(value.shape[1:])) if value.shape[1:].is_fully_defined() else -1
    return tf.reshape(value, [tf.shape(value)[0], positions])


def _joined(values: Sequence[Any]) -> Any:
    return values[0] if len(values) == 1 else tf.concat(values, 1)


def _two(sizes: Sequence[int]) -> list[int]:
    return [1] * (2 - len(sizes)) + list(sizes)


def _several(axis: Any) -> Sequence[int]:
    return axis if isinstance(axis, (list, tuple)) else [axis]


def _is_adapted(layer: Any) -> bool:
    is_quantized = getattr(layer, "quantization_mode", None) is not None
    return bool(getattr(layer, "lora_enabled", False)) or is_quantized


def _always(_: Any) -> bool:
    return True


_WEIGHTS = ("kernel", "bias", "embeddings", "gamma", "beta", "scale")
#: The rules, by class.
RULES: dict[type, Rule] = {
    keras.layers.Dense: _dense,
    keras.layers.EinsumDense: _einsum_dense,
    keras.layers.Conv1D: _convolution,
    keras.layers.Conv2D: _convolution,
    keras.layers.Embedding: _embedding,
    keras.layers.LayerNormalization: _layer_normalization,
    keras.layers.RMSNormalization: _rms_normalization,
    keras.layers.GroupNormalization: _group_normalization,
}


def _is_plain_convolution(layer: Any) -> bool:
    is_last = layer.data_format == "channels_last"
    return is_last and layer.groups == 1 and layer.padding in ("valid", "same")


def _has_inner_axes(layer: Any) -> bool:
    return 0 not in _several(layer.axis) and not getattr(layer, "rms_scaling", False)


_REQUIRED: dict[type, Callable[[Any], bool]] = {
    keras.layers.Conv1D: _is_plain_convolution,
    keras.layers.Conv2D: _is_plain_convolution,
    keras.layers.LayerNormalization: _has_inner_axes,
    keras.layers.RMSNormalization: _has_inner_axes,
    keras.layers.GroupNormalization: lambda layer: layer.axis == -1,
}
