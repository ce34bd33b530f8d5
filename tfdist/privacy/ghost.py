"""How are the gradients of all examples clipped and summed at once?

With one forward pass and one backward pass to what came out of the layers; see factors.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfdist.privacy import factors, layer_rules, recording
from tfdist.privacy.layer_rules import NoRule


def clipped_sums(
    layers: Sequence[Any],
    variables: Sequence[Any],
    losses_of: Callable[[], Any],
    *,
    rows: int,
    counts: Any,
    norm: float,
) -> list[Any]:
    """Returns the sum of the examples' clipped gradients for each weight.

    Args:
        layers: Those with weights, which are listened to; each `has_rule`.
        variables: The trainable weights.
        losses_of: Computes the loss of each row, `(rows,)`, with a forward pass.
        rows: How many there are.
        counts: Whether a row counts, `(rows,)`.
        norm: What the norm of each example's gradient is clipped to.

    Raises:
        NoRule: A layer was called in a way that its rule does not know.
    """
    with recording.records() as calls, tf.GradientTape() as tape:
        losses = losses_of()
    back = tape.gradient(losses, [call.made for call in calls])
    kinds = {id(v): tf.as_dtype(v.dtype) for v in variables}
    found: dict[int, Any] = {}
    for layer in layers:
        own = [
            (call.given, gradient) for call, gradient in zip(calls, back, strict=True)
            if call.layer is layer and gradient is not None
        ]  # fmt: skip
        if not own:
            continue
        for given, gradient in own:
            if gradient.shape[0] != rows or given.shape[0] != rows:
                raise NoRule(layer.name)
        kind = kinds[id(layer.trainable_variables[0])]
        own = [(_cast(given, kind), tf.cast(gradient, kind)) for given, gradient in own]
        found |= {id(weight): one for weight, one in layer_rules.gradients_of(layer, own)}
    if not found:
        return [tf.zeros(v.shape, v.dtype) for v in variables]
    kind = next(iter(found.values())).squares.dtype
    squares = tf.add_n([tf.cast(one.squares, kind) for one in found.values()])
    each = factors.factors_of(squares, counts, norm)
    return [
        tf.cast(found[id(v)].total(tf.cast(each, kinds[id(v)])), v.dtype)
        if id(v) in found else tf.zeros(v.shape, v.dtype)
        for v in variables
    ]  # fmt: skip


def _cast(given: Any, kind: tf.DType) -> Any:
    given = tf.convert_to_tensor(given)
    return tf.cast(given, kind) if given.dtype.is_floating else given
