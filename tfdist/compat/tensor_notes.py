"""What does Keras note on a tensor, besides its values, and how do the notes follow its rows?

A layer leaves its mask on its output, and an activation its logits. A loss prefers the logits to
the probabilities, which saturate at 0 and 1. Without a note of logits, Keras looks at the operation
that made the tensor. A tensor of some of the rows is a new tensor, so each note is cut, or
gathered, along with it.

Read in Keras 3.10 to 3.16: `_keras_mask` in `backend/common/masking.py`, `_keras_logits` and the
types of operations in `_get_logits` of the TensorFlow backend's `nn.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

# The operations that Keras takes logits from, each of which works on every row by itself.
_ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "Sigmoid": lambda logits: tf.raw_ops.Sigmoid(x=logits),
    "Softmax": lambda logits: tf.raw_ops.Softmax(logits=logits),
}


def mask_of(value: Any) -> Any:
    """Returns the mask that Keras has put on a tensor, or None."""
    return getattr(value, "_keras_mask", None)


def set_mask(value: Any, mask: Any) -> None:
    """Puts a mask on a tensor, where Keras looks for it."""
    value._keras_mask = mask


def with_notes(of_rows: Callable[[Any], Any], value: Any) -> Any:
    """Returns `of_rows(value)` with the notes that `value` has.

    Args:
        of_rows: Selects or gathers rows of a tensor; called for each note as well.
        value: A tensor whose first dimension is the rows.
    """
    logits, mask = getattr(value, "_keras_logits", None), mask_of(value)
    kind = _kind(value)
    if logits is None and kind in _ACTIVATIONS and (kind != "Softmax" or value.shape.rank > 1):
        made = _ACTIVATIONS[kind](of_rows(value.op.inputs[0]))
    else:
        made = of_rows(value)
    if logits is not None:
        made._keras_logits = of_rows(logits)
    if mask is not None:
        set_mask(made, of_rows(mask))
    return made


def _kind(value: Any) -> str:
    """Returns the type of the operation that made a tensor of a graph; "" for other values."""
    if not isinstance(value, tf.Tensor) or hasattr(value, "numpy"):
        return ""
    return str(value.op.type)
