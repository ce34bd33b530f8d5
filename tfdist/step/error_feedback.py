"""What happens to the rounding error of a gradient? It is added to the next one.

Each replica holds the residuals of its own gradients. Residuals are part of the run: checkpoints
hold those of every replica, and a run on another number of replicas goes on with their sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfdist.communication.compression import Reduction
from tfdist.compat.notes import note_of, set_note
from tfdist.step import variables

_NAME = "error_feedback"


def adopt(
    model: keras.Model,
    strategy: tf.distribute.Strategy,
    reduction: Reduction,
    *,
    is_own_rule: bool,
    local_steps: int | None,
    on_nan: str,
) -> None:
    """Makes the residuals that a run needs part of it, if it needs any; keeps existing ones.

    Args:
        model: The model, built.
        strategy: The strategy that it was made under.
        reduction: How gradients travel.
        is_own_rule: Whether the model trains by a custom rule.
        local_steps: As in `fit`.
        on_nan: As in `fit`.

    Raises:
        ValueError: Error feedback was asked for, and something else rules it out.
    """
    if not reduction.error_feedback:
        variables.attach(model, _NAME, None)
        return
    obstacles = {
        "a training rule of the model's own": is_own_rule,
        "local_steps": local_steps,
        # A step that is left out would take the residuals of the steps before with it.
        f"on_nan={on_nan!r}": on_nan in ("raise", "skip"),
        "LossScaleOptimizer": isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer),
        "TPUStrategy": isinstance(strategy, tf.distribute.TPUStrategy),
    }
    if found := [name for name, is_there in obstacles.items() if is_there]:
        raise ValueError(
            f"error_feedback=True cannot be combined with {found[0]}. Leave out one of the two."
        )
    kept = note_of(model, "residuals")
    if kept is None:  # a traced loop still knows them after a run without error feedback
        with strategy.scope():
            kept = [_residual(v, reduction) for v in model.trainable_variables]
        set_note(model, "residuals", kept)
    variables.attach(model, _NAME, kept)


def residuals_of(model: keras.Model) -> Sequence[Any]:
    """Returns the residuals, one variable per trainable variable; () without error feedback."""
    return variables.attached(model, _NAME) or ()


def _residual(variable: Any, reduction: Reduction) -> tf.Variable:
    is_rounded = reduction.narrows(tf.as_dtype(variable.dtype))
    return tf.Variable(
        tf.zeros(variable.shape if is_rounded else [0], variable.dtype),
        trainable=False,
        synchronization=tf.VariableSynchronization.ON_READ,  # each replica has its own
        aggregation=tf.VariableAggregation.SUM,
        name=f"{variable.name}_rest",
    )
