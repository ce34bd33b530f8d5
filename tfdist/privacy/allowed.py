"""What can be trained privately, and beside which options of `fit`?

What is refused is refused before the first step: what mixes examples, or keeps something of them
that no noise was added to, would make the promise a lie.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from tfdist.communication.compression import Reduction
from tfdist.communication.share import is_tpu
from tfdist.compat import keras_internals
from tfdist.data.shapes import Shapes
from tfdist.privacy.dpsgd import DPSGD


def refuse(
    model: keras.Model,
    strategy: tf.distribute.Strategy,
    privacy: Any,
    *,
    has_replica_step: bool,
    already_sharded: bool,
    shapes: Shapes,
    static_shapes: bool | None,
    on_nan: str,
    check: Any,
    reduction: Reduction,
    local_steps: int | None,
    batch_size: int | None,
    shuffle: Any,
) -> None:
    """Raises a ValueError where `privacy` is invalid, or cannot be had.

    Args:
        model: The model, compiled unless it has a replica_step.
        strategy: The strategy that it was made under.
        privacy: As in `fit`.
        has_replica_step: Whether it trains by a rule of the user's.
        already_sharded: As in `fit`, as are all arguments below but `shapes`.
        shapes: Which shapes batches are given.
    """
    if privacy is None:
        return
    if not isinstance(privacy, DPSGD):
        raise ValueError(
            f"privacy={privacy!r} says how to train privately. Give a tfdist.privacy.DPSGD, or "
            "leave it out."
        )
    rules = ("train_step", "compute_loss", "compute_metrics")
    own = [f"{type(model).__name__}.{name}" for name in rules if _overrides(model, name)]
    obstacles = {
        "replica_step, which sums gradients itself": has_replica_step,
        f"{own[0] if own else ''}, which may mix examples": bool(own),
        "TPUStrategy": is_tpu(strategy),
        "already_sharded=True, where no worker knows all examples": already_sharded,
        "length_buckets, which show the lengths of examples": bool(shapes.buckets),
        "static_shapes=False, which shows the number of drawn examples": static_shapes is False,
        "on_nan='skip', a decision by data without noise": on_nan == "skip",
        "check='whole', which computes on all rows": check == "whole",
        "a narrower reduction, which rounds sums before the noise": (
            reduction.wire_dtype is not None
        ),
        "reduction='auto', which measures sums that a private step does not make": (
            reduction.is_open
        ),
        f"local_steps={local_steps}, which update without noise": local_steps is not None,
        f"shuffle={shuffle!r}: every step draws its examples": not (
            isinstance(shuffle, bool) and shuffle
        ),
        f"batch_size={batch_size}, where expected_batch_size={privacy.expected_batch_size}": (
            batch_size not in (None, privacy.expected_batch_size)
        ),
    }
    if found := [name for name, is_there in obstacles.items() if is_there]:
        raise ValueError(
            f"privacy=DPSGD(...) cannot be combined with {found[0]}. Leave out one of the two."
        )
    _refuse_optimizer(model.optimizer)


def refuse_layers(model: keras.Model) -> None:
    """Raises a ValueError where a layer of a model, which is built, cannot be trained privately."""
    for name, why, cure in _bad_layers(model):
        raise ValueError(f"privacy=DPSGD(...) cannot train {name!r}: {why}. {cure}")
    if not model.trainable_variables:
        raise ValueError(
            "privacy=DPSGD(...) has nothing to train: no weight of the model is trainable. Set "
            "trainable=True on some layer."
        )


def _bad_layers(model: keras.Model) -> Iterator[tuple[str, str, str]]:
    """Yields the name of a layer, what is wrong with it, and what to do instead."""
    for layer in keras_internals.flat_layers(model):
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable:
            yield (
                layer.name, "it is a BatchNormalization, which normalizes examples by each other "
                "and keeps their statistics without noise",
                "Use keras.layers.GroupNormalization or LayerNormalization.",
            )
        if getattr(layer, "stateful", False) is True:
            yield (
                layer.name, "it keeps a state of its rows from one batch to the next",
                "Make it with stateful=False.",
            )
        if getattr(layer, "activity_regularizer", None) is not None:
            yield (
                layer.name, "its activity regularizer adds one number for the whole batch",
                "Leave the activity regularizer out, or regularize the weights.",
            )
        if any(getattr(weight, "overwrite_with_gradient", False) for weight in layer.weights):
            yield (
                layer.name, "its float8 scales are overwritten without noise",
                "Use the dtype policy mixed_bfloat16 or float32.",
            )
        if states := _own_states(layer):
            yield (
                layer.name, f"its code may write {states[0]!r} while it trains, without noise",
                "Make it of layers without such states, or add the weight with trainable=True and "
                "set the layer's trainable to False.",
            )


def _own_states(layer: Any) -> list[str]:
    """Names the states of a layer's own code that it may assign in a training step."""
    if type(layer).__module__.partition(".")[0] in ("keras", "tfdist"):
        return []
    own = [v for v in vars(layer).get("_non_trainable_variables", ()) if v.trainable is False]
    return [v.path for v in own if not v.path.endswith("seed_generator_state")]


def _refuse_optimizer(optimizer: Any) -> None:
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        raise ValueError(
            "privacy=DPSGD(...) cannot be combined with a LossScaleOptimizer, whose scale follows "
            "from overflows of gradients without noise. Use mixed_bfloat16 instead of "
            "mixed_float16, or compile with auto_scale_loss=False."
        )
    if steps := getattr(optimizer, "gradient_accumulation_steps", None):
        raise ValueError(
            f"privacy=DPSGD(...) cannot be combined with gradient_accumulation_steps={steps}, "
            "which would add noise to each part. Give DPSGD a larger expected_batch_size, and a "
            "physical_batch_size that the memory holds."
        )


def _overrides(model: keras.Model, name: str) -> bool:
    return keras_internals.overrides(model, name)
