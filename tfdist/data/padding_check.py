"""Can a model tell a padded batch from an unpadded one?

With `length_buckets` a model gives the numbers of one device only if it cannot: every layer that
mixes timesteps must respect a mask. The list of layers does not tell whether it does, so the model
is tried on a made-up batch, once as it is and once padded. The trial moves the weights a little,
since a bias that is still zero hides much, and leaves the model itself unchanged. A model whose
outputs differ is refused.

The same two outputs also show which dimension of an output is as long as which input.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdist.compat import keras_internals, tf_internals
from tfdist.data.shapes import Followed, Lengths

_LOG = logging.getLogger("tfdist")
_ROWS = 2
_LARGEST_MOVED = 2**20  # entries of a variable; the copy of a larger one would take its memory
_CURE = (
    "Let the model mask what is padded (Embedding(mask_zero=True), or Masking() with its "
    "mask_value=0, and layers after it that keep the mask), or leave length_buckets out."
)


def followed(
    model: keras.Model,
    strategy: tf.distribute.Strategy,
    spec: Any,
    lengths: Lengths,
    call: Callable[[Any], Any],
) -> Followed | None:
    """Tries whether a model can tell padding, and which lengths its outputs have.

    Args:
        model: The model; it is built here if it was not yet.
        strategy: The strategy that it was made under.
        spec: Structure of tensor specs of one batch.
        lengths: Which of them are open, and the lengths that they are padded to.
        call: Returns the model's outputs for a batch like `spec`.

    Returns:
        For each output, for each dimension, the number of the open tensor whose length it has, or
        None. Just None if the model cannot be tried; the log says why.

    Raises:
        ValueError: The outputs differ, or have a length that no input has.
    """
    num_open = sum(lengths.is_open)
    long = next((b for b in lengths.buckets if b > num_open + 2), lengths.buckets[-1])
    short = [min(2 + number, max(long - 1, 1)) for number in range(num_open)]
    error: Exception | None = None
    if not model.built:
        with strategy.scope():
            call(_batch(spec, lengths, [long] * num_open, [long] * num_open))
    for own in (short, [short[0]] * num_open, [max(long // 2, 1)] * num_open):
        try:
            with warnings.catch_warnings(record=True) as noted:
                warnings.simplefilter("always")
                plain = _outputs(model, call, _batch(spec, lengths, own, own))
                padded = _outputs(model, call, _batch(spec, lengths, own, [long] * num_open))
        except Exception as caught:  # a model may raise anything for a made-up batch
            error = error or caught
            continue
        dims = [_dims(a.shape, b.shape, own, long) for a, b in zip(plain, padded, strict=True)]
        _compare(model, plain, padded, dims, own, _hint(model, noted))
        return tuple(dims)
    _LOG.warning(
        "Whether %s can tell padded timesteps could not be tried (%s: %s). Where it can, "
        "length_buckets change its results: make sure that all its layers respect masks.",
        model.name, type(error).__name__, str(error).partition("\n")[0],
    )
    return None


def refuse_unused(found: Followed | None, lengths: Lengths, *, predicts: bool) -> None:
    """Raises a ValueError where outputs that have a length cannot be cut or compared.

    Args:
        found: What `followed` returned.
        lengths: The lengths of the data.
        predicts: Whether the outputs are returned, and so have to be cut.
    """
    if predicts and found is None:
        raise ValueError(
            "predict has to cut padded outputs, but trying the model could not show which of them "
            "are as long as its inputs. Leave length_buckets out of predict."
        )
    has_length = any(number is not None for dims in found or () for number in dims)
    if not predicts and lengths.target is None and has_length:
        raise ValueError(
            "An output of the model is as long as its inputs, but no target is, so its loss or "
            "metrics would count timesteps that only pad. Give one target for each timestep, or "
            "leave length_buckets out."
        )


def _outputs(model: keras.Model, call: Callable[[Any], Any], batch: Any) -> list[np.ndarray]:
    with tf.init_scope(), tf_internals.default_replica_mode():
        with keras.StatelessScope(state_mapping=list(_moved(model))):
            outputs = call(batch)
    return [np.asarray(keras.ops.convert_to_numpy(out)) for out in keras.tree.flatten(outputs)]


def _moved(model: keras.Model) -> Iterator[tuple[Any, Any]]:
    """Yields the smaller floating variables, with values a little above their own."""
    rng = np.random.default_rng(0)
    for variable in model.variables:
        size = int(np.prod(variable.shape))
        if keras.backend.is_float_dtype(variable.dtype) and size <= _LARGEST_MOVED:
            more = rng.uniform(0.05, 0.15, size=tuple(variable.shape))
            yield variable, tf.cast(variable.value, variable.dtype) + tf.cast(more, variable.dtype)


def _batch(spec: Any, lengths: Lengths, own: list[int], padded: list[int]) -> Any:
    """Makes up a batch whose open tensors have lengths of their own, and pads it.

    Its last row is one timestep shorter than the others.
    """
    rng, numbers = np.random.default_rng(1), iter(range(len(own)))
    made: list[Any] = []
    for leaf, is_open in zip(keras.tree.flatten(spec), lengths.is_open, strict=True):
        if leaf is None:
            made.append(None)
            continue
        shape, more = leaf.shape.as_list(), 0
        shape[0] = _ROWS
        if is_open:
            number = next(numbers)
            shape[1], more = own[number], padded[number] - own[number]
        values = _values(shape, leaf.dtype, rng)
        if is_open and shape[1] > 1:
            values[-1, -1] = "" if leaf.dtype == tf.string else 0
        value = tf.constant(values, leaf.dtype)
        made.append(_longer(value, more) if more else value)
    return keras.tree.pack_sequence_as(spec, made)


def _values(shape: list[int], dtype: tf.DType, rng: np.random.Generator) -> Any:
    if dtype.is_floating:
        return rng.uniform(0.5, 1.5, size=shape)
    return np.full(shape, "a" if dtype == tf.string else 1)


def _longer(value: tf.Tensor, more: int) -> tf.Tensor:
    shape = value.shape.as_list()
    shape[1] = more
    return tf.concat([value, tf.zeros(shape, value.dtype)], axis=1)  # of texts: empty ones


def _dims(plain: Any, padded: Any, own: list[int], long: int) -> tuple[int | None, ...]:
    return tuple(
        None if a == b else own.index(a) if a in own and b == long else _refuse_length(plain, own)
        for a, b in zip(plain, padded, strict=True)
    )


def _refuse_length(shape: Any, own: list[int]) -> Any:
    raise ValueError(
        f"An output of the model has the length of no input: shape {tuple(shape)} for inputs of "
        f"{own} timesteps, so it cannot be padded and cut. Leave length_buckets out."
    )


def _compare(
    model: keras.Model, plain: Any, padded: Any, dims: Any, own: list[int], hint: str
) -> None:
    tolerance = 5e-2 if "16" in str(model.compute_dtype) else 1e-3
    for one, other, follows in zip(plain, padded, dims, strict=True):
        ends = [slice(None) if number is None else slice(own[number]) for number in follows]
        other = other[tuple(ends)]
        if not np.issubdtype(one.dtype, np.number) or _are_close(one, other, tolerance):
            continue
        one, other = _without_masked(one, follows), _without_masked(other, follows)
        if not _are_close(one, other, tolerance):
            raise ValueError(
                f"length_buckets pad batches, and {model.name!r} takes the padding for data: "
                f"a batch of {own} timesteps gives other outputs when it is padded{hint}. {_CURE}"
            )
        _LOG.warning(
            "What %s gives for timesteps that it masks depends on the length that a batch is "
            "padded to. So predictions for these timesteps, and metrics that ignore the mask "
            "(those that are not the mean of a function), differ from one device's.", model.name,
        )


def _without_masked(value: np.ndarray, follows: tuple[int | None, ...]) -> np.ndarray:
    """Sets the timestep of the last row that was masked from the start to zero."""
    value = value.copy()
    if len(follows) > 1 and follows[1] is not None:
        value[-1, -1] = 0
    return value


def _are_close(one: np.ndarray, other: np.ndarray, tolerance: float) -> bool:
    size = float(np.max(np.abs(one[np.isfinite(one)]), initial=0.0))
    return np.allclose(one, other, rtol=tolerance, atol=tolerance * size, equal_nan=True)


def _hint(model: keras.Model, noted: list[Any]) -> str:
    makers = [
        layer for layer in keras_internals.flat_layers(model)
        if isinstance(layer, keras.layers.Masking) or getattr(layer, "mask_zero", False)
    ]
    if not makers:
        return ", and none of its layers makes a mask"
    texts = [str(note.message) for note in noted]
    lost = [text for text in texts if "destroy the mask" in text]
    return f". Keras says: {lost[0].partition('. ')[0]}" if lost else ""
