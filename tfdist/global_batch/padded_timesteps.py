"""Which timesteps of a replica's rows count, where batches are padded to one of a few lengths?

The model's own mask covers the timesteps that are only padding. A Keras metric may ignore masks,
and one device would have counted masked timesteps within the batch's own length. So metrics get
weights as well: 1 for the timesteps that the batch had, 0 for the padding. Where targets have no
open length, the functions here return their arguments unchanged.
"""

from __future__ import annotations

from typing import Any, NoReturn

import tensorflow as tf
from keras import ops

from tfdist.compat import tensor_notes
from tfdist.global_batch import position as position_lib
from tfdist.global_batch.position import Timesteps


def _timesteps() -> Timesteps | None:
    position = position_lib.current()
    return None if position is None else position.timesteps


def _refuse(what: str, cure: str) -> NoReturn:
    raise ValueError(
        f"{what}, so it would count timesteps that only pad a batch to one of length_buckets. "
        f"{cure}, or leave length_buckets out."
    )


def has_timesteps(value: Any) -> bool:
    """Tells whether a tensor of a replica's rows has entries for each timestep of the targets."""
    timesteps = _timesteps()
    shape: Any = getattr(value, "shape", ())
    return timesteps is not None and len(shape) > 1 and shape[1] == timesteps.padded


def masked(outputs: list[Any]) -> None:
    """Removes timesteps that are only padding from the masks of a model's outputs, in place."""
    timesteps = _timesteps()
    for output in outputs:
        mask = tensor_notes.mask_of(output)
        if timesteps is not None and mask is not None and has_timesteps(mask):
            counted = tf.cast(mask, tf.bool) & _counted(timesteps)[tf.newaxis]
            tensor_notes.set_mask(output, counted)


def weights(value: Any, y_true: Any) -> Any:
    """Returns weights of a metric, with 0 for the timesteps that are only padding.

    Args:
        value: A weight for each row, or for each timestep or entry of it.
        y_true: The targets that the metric is given.
    """
    timesteps = _timesteps()
    if timesteps is None or not has_timesteps(y_true):
        return value
    value = tf.convert_to_tensor(value)
    if value.shape.rank == 1:
        value = value[:, tf.newaxis]
    counted = tf.reshape(_counted(timesteps), [1, -1, *[1] * (value.shape.rank - 2)])
    return tf.where(counted, value, tf.zeros((), value.dtype))


def takes_mean(values: Any, reduce_fn: Any) -> bool:
    """Tells whether a metric is about to take the mean over the timesteps of each row."""
    return reduce_fn is ops.mean and has_timesteps(values)


def of_own_length(mean: Any) -> Any:
    """Turns a mean over all timesteps, with zeros for padding, into one over those that count.

    Keras's `Mean` first averages over each row's timesteps, so the length of a batch decides how
    much each of them weighs against the timesteps of another batch.
    """
    timesteps = _timesteps()
    if timesteps is None or mean is None:
        return mean
    padded = tf.cast(timesteps.padded, mean.dtype)
    return mean * (padded / tf.cast(timesteps.counted, mean.dtype))


def require(values: Any, y_true: Any, name: str) -> None:
    """Raises a ValueError where the targets have timesteps and a function's values have not.

    Args:
        values: What the function returned.
        y_true: The targets.
        name: The name of the function.
    """
    if has_timesteps(y_true) and not has_timesteps(values):
        _refuse(f"The {name} returns values of shape {values.shape}, not one for each timestep",
                "Make it return one for each")


def require_mask(mask: Any, y_true: Any, name: str) -> None:
    """Raises a ValueError where the targets have timesteps, but the outputs carry no mask."""
    if has_timesteps(y_true) and not has_timesteps(mask):
        _refuse(
            f"The targets of the {name} have an open length, but the model's output carries no "
            "mask of its timesteps",
            "Let a layer make one (Embedding(mask_zero=True), Masking), and the layers after it "
            "keep it",
        )


def _counted(timesteps: Timesteps) -> tf.Tensor:
    return tf.range(timesteps.padded) < timesteps.counted
