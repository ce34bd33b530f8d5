"""Which steps of a replica's rows count, where batches are padded to one of a few lengths?

What a model makes of the steps that only pad is masked, by the model's own mask. A metric of Keras
need not look at masks, and one device would have counted what is masked within the batch's own
length; so metrics get weights as well: 1 for the steps that the batch had, 0 for those that it was
padded with. Functions here return what they were given where targets have no open length.
"""

from __future__ import annotations

from typing import Any, NoReturn

import tensorflow as tf
from keras import ops

from tfdist.compat import tensor_notes
from tfdist.global_batch import position as position_lib
from tfdist.global_batch.position import Steps


def _steps() -> Steps | None:
    place = position_lib.current()
    return None if place is None else place.steps


def _refuse(what: str, cure: str) -> NoReturn:
    raise ValueError(
        f"{what}, so it would count the steps that only pad a batch to one of length_buckets. "
        f"{cure}, or leave length_buckets out."
    )


def has_steps(value: Any) -> bool:
    """Tells whether a tensor of a replica's rows has one entry, or more, a step of the targets."""
    steps = _steps()
    shape: Any = getattr(value, "shape", ())
    return steps is not None and len(shape) > 1 and shape[1] == steps.padded


def masked(outputs: list[Any]) -> None:
    """Takes the steps that only pad out of the masks of a model's outputs, in place."""
    steps = _steps()
    for output in outputs:
        mask = tensor_notes.mask_of(output)
        if steps is not None and mask is not None and has_steps(mask):
            counted = tf.cast(mask, tf.bool) & _counted(steps)[tf.newaxis]
            tensor_notes.set_mask(output, counted)


def weights(value: Any, y_true: Any) -> Any:
    """Returns weights of a metric, with 0 for the steps that only pad.

    Args:
        value: A weight for each row, or for each step or entry of it.
        y_true: The targets that the metric is given.
    """
    steps = _steps()
    if steps is None or not has_steps(y_true):
        return value
    value = tf.convert_to_tensor(value)
    if value.shape.rank == 1:
        value = value[:, tf.newaxis]
    counted = tf.reshape(_counted(steps), [1, -1, *[1] * (value.shape.rank - 2)])
    return tf.where(counted, value, tf.zeros((), value.dtype))


def takes_mean(values: Any, reduce_fn: Any) -> bool:
    """Tells whether a metric is about to take the mean over the steps of each row."""
    return reduce_fn is ops.mean and has_steps(values)


def of_own_length(mean: Any) -> Any:
    """Turns a mean over all steps, of which some are zero, into one over those that count.

    Keras's `Mean` takes the mean over each row's steps first, so that a batch's length says what
    each of them counts beside the steps of another batch.
    """
    steps = _steps()
    if steps is None or mean is None:
        return mean
    return mean * (tf.cast(steps.padded, mean.dtype) / tf.cast(steps.counted, mean.dtype))


def require(values: Any, y_true: Any, name: str) -> None:
    """Raises a ValueError where a function of targets a step gave no value a step.

    Args:
        values: What it gave.
        y_true: The targets.
        name: What it is called.
    """
    if has_steps(y_true) and not has_steps(values):
        _refuse(f"The {name} gives no value for each step, but {values.shape}",
                "Make it one that does")


def require_mask(mask: Any, y_true: Any, name: str) -> None:
    """Raises a ValueError where a loss of targets a step gets outputs that carry no mask."""
    if has_steps(y_true) and not has_steps(mask):
        _refuse(
            f"The targets of the {name} have an open length, but the model's output carries no "
            "mask of its steps", "Let a layer make one (Embedding(mask_zero=True), Masking), and "
            "the layers after it keep it"
        )


def _counted(steps: Steps) -> tf.Tensor:
    return tf.range(steps.padded) < steps.counted
