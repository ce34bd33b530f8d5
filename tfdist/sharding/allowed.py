"""Which optimizers can hold their states in parts, and beside which options of `fit`?

In slices those that compute each number of a weight from the same numbers of its gradient and its
states. Others that compute each weight by itself hold the states of whole weights. It cannot be
read off a class, so the classes are listed; a subclass may do anything. Norms to clip by are summed
over all parts.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfdist.communication.compression import EXACT, Reduction
from tfdist.communication.share import is_tpu, share_of
from tfdist.compat import keras_internals, optimizer_slices

#: Of `keras.optimizers`, in slices.
BY_NUMBER = (
    "SGD", "Adam", "AdamW", "Nadam", "Adamax", "Lion", "RMSprop", "Adagrad", "Adadelta", "Ftrl",
)  # fmt: skip
#: Those that look at whole weights.
BY_WEIGHT = ("Lamb", "Adafactor", "Muon")


def refuse(
    model: keras.Model,
    strategy: tf.distribute.Strategy,
    *,
    sharded_optimizer: Any,
    is_own_rule: bool = False,
    local_steps: int | None = None,
    reduction: Reduction = EXACT,
    profile: Any = False,
) -> None:
    """Raises a ValueError where `sharded_optimizer` is invalid, or cannot be had.

    Args:
        model: The model.
        strategy: The strategy that it was made under.
        sharded_optimizer: As in `fit`.
        is_own_rule: Whether the model trains by a custom rule.
        local_steps: As in `fit`.
        reduction: How gradients travel.
        profile: As in `fit`.
    """
    if not isinstance(sharded_optimizer, bool):
        raise ValueError(f"sharded_optimizer={sharded_optimizer!r} must be True or False.")
    if not sharded_optimizer:
        return
    share = share_of(strategy)
    has_several = share.has_others and share.local_replicas > 1
    by_slices = share.has_others and reduction.wire_dtype == "float16"
    obstacles = {
        "a training rule of the model's own": is_own_rule,
        "TPUStrategy": is_tpu(strategy),
        f"{share.local_replicas} replicas a worker": has_several,
        "local_steps": local_steps,
        "reduction='auto'": reduction.is_open,
        "error_feedback": reduction.error_feedback,
        "reduction='float16'": by_slices,
        "profile": profile,
        "run_eagerly": model.compiled and model.run_eagerly,
    }
    if found := [name for name, is_there in obstacles.items() if is_there]:
        raise ValueError(
            f"sharded_optimizer=True cannot be combined with {found[0]}. Leave out one of the two."
        )
    if model.compiled:
        _refuse_class(model.optimizer)


def refuse_weights(model: keras.Model) -> None:
    """Raises a ValueError where a model, which is built, has weights that are not updated alike."""
    for variable in model.trainable_variables:
        if getattr(variable, "overwrite_with_gradient", False):
            raise ValueError(
                f"sharded_optimizer=True cannot be combined with float8: {variable.path!r} is "
                "overwritten with its gradient. Leave out one of the two."
            )


def stays_whole(model: keras.Model, parts: int) -> set[int]:
    """Returns the ids of the weights whose states every replica holds whole.

    These are tables of embeddings, whose gradients are rows, and what has less numbers than there
    are replicas.
    """
    tables = {
        id(variable)
        for layer in keras_internals.flat_layers(model)
        if isinstance(layer, keras.layers.Embedding)
        for variable in layer.trainable_variables
    }
    small = {id(v) for v in model.trainable_variables if v.shape.num_elements() < parts}
    return tables | small


def needs_whole_weights(optimizer: Any) -> bool:
    """Tells whether an optimizer, which is not refused, looks at whole weights."""
    return type(optimizer) in [getattr(keras.optimizers, name) for name in BY_WEIGHT]


def _refuse_class(optimizer: Any) -> None:
    inner = optimizer_slices.inner_of(optimizer)
    kinds = [getattr(keras.optimizers, name) for name in (*BY_NUMBER, *BY_WEIGHT)]
    if type(inner) not in kinds or (
        inner is not optimizer and type(optimizer) is not keras.optimizers.LossScaleOptimizer
    ):
        raise ValueError(
            f"sharded_optimizer=True was given with {type(inner).__name__}, of which it is not "
            "known that it updates each weight by itself. Use one of keras.optimizers."
            f"{', '.join((*BY_NUMBER, *BY_WEIGHT))}, or leave sharded_optimizer out."
        )
