"""What does `fit` take besides Keras's own arguments? Options, checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras

from tfdist.checkpoint.interval import parse_every
from tfdist.communication.compression import Reduction, parse_reduction
from tfdist.communication.share import is_tpu
from tfdist.communication.workers import Workers
from tfdist.compat import keras_internals
from tfdist.data.shapes import Shapes, parse_shapes
from tfdist.privacy import allowed as private
from tfdist.privacy.dpsgd import DPSGD
from tfdist.sharding import allowed
from tfdist.step import local_steps as local_steps_lib

ON_NAN = ("warn", "raise", "skip", "ignore")
CHECK = ("auto", "raise", "warn", False, "whole")


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of one call of `fit`, which documents them.

    Attributes:
        is_own_rule: Whether the model trains by a custom rule, its own or the user's.
        already_sharded: As in `fit`.
        shapes: Which shapes batches are given.
        checkpoint_dir: As in `fit`.
        encrypt_to: As in `fit`.
        save_every: As in `fit`.
        fingerprint_every: As in `fit`.
        on_nan: One of ON_NAN.
        check: "raise", "warn", "whole" or False, which it is for a `replica_step` and on a TPU.
        reduction: How gradients travel between replicas.
        local_steps: As in `fit`.
        outer_optimizer: As in `fit`.
        sharded_optimizer: As in `fit`.
        privacy: As in `fit`.
        profile: As in `fit`.
    """

    is_own_rule: bool
    already_sharded: bool
    shapes: Shapes
    checkpoint_dir: Any
    encrypt_to: Any
    save_every: Any
    fingerprint_every: int | None
    on_nan: str
    check: str | bool
    reduction: Reduction
    local_steps: int | None
    outer_optimizer: Any
    sharded_optimizer: bool
    privacy: DPSGD | None
    profile: Any

    @property
    def of_data(self) -> dict[str, Any]:
        """The options of `Inputs.feed`, by name."""
        return {
            "already_sharded": self.already_sharded, "shapes": self.shapes,
            "all_rows": self.check == "whole",
        }  # fmt: skip


def options_of(
    model: keras.Model,
    workers: Workers,
    *,
    replica_step: Callable[[Any], Any] | None,
    already_sharded: bool,
    static_shapes: bool | None,
    length_buckets: Any,
    checkpoint_dir: Any,
    encrypt_to: Any,
    save_every: Any,
    fingerprint_every: int | None,
    on_nan: str,
    check: str | bool,
    reduction: Any,
    local_steps: int | None,
    outer_optimizer: Any,
    sharded_optimizer: Any,
    profile: Any,
    privacy: Any,
    batch_size: int | None,
    shuffle: Any,
) -> Options:
    """Checks the options of `fit`; they are the same on all workers, see same_call.py.

    Args:
        model: The model.
        workers: The workers of its strategy.
        replica_step: The user's training rule, or None. All other arguments are as in `fit`.

    Raises:
        ValueError: An option is invalid, or the model was not compiled.
    """
    strategy = workers.strategy
    options = Options(
        is_own_rule=replica_step is not None or keras_internals.overrides(model, "train_step"),
        already_sharded=already_sharded,
        shapes=parse_shapes(static_shapes, length_buckets, is_tpu=is_tpu(strategy)),
        checkpoint_dir=checkpoint_dir,
        encrypt_to=encrypt_to,
        save_every=save_every,
        fingerprint_every=fingerprint_every,
        on_nan=on_nan,
        check=parse_check(check, is_tpu=is_tpu(strategy)) if replica_step is None else False,
        reduction=parse_reduction(reduction),
        local_steps=local_steps,
        outer_optimizer=outer_optimizer,
        sharded_optimizer=sharded_optimizer,
        privacy=privacy,
        profile=profile,
    )
    _refuse(options)
    _refuse_whole_rules(options, check=check, has_replica_step=replica_step is not None)
    if reduction is not None and replica_step is not None:
        raise ValueError(
            f"reduction={reduction!r} was given to fit, but gradients are summed by "
            "replica_step. Give it there: tfdist.apply_gradients(..., reduction=...)."
        )
    local_steps_lib.refuse(
        model, strategy, local_steps=local_steps, outer_optimizer=outer_optimizer,
        is_own_rule=options.is_own_rule, on_nan=on_nan,
    )
    if replica_step is None:
        keras_internals.assert_compiled(model, "fit")
    allowed.refuse(
        model, strategy, sharded_optimizer=sharded_optimizer, is_own_rule=options.is_own_rule,
        local_steps=local_steps, reduction=options.reduction, profile=profile,
    )
    private.refuse(
        model, strategy, privacy, has_replica_step=replica_step is not None,
        already_sharded=already_sharded, shapes=options.shapes, static_shapes=static_shapes,
        on_nan=on_nan, check=check, reduction=options.reduction, local_steps=local_steps,
        batch_size=batch_size, shuffle=shuffle,
    )
    return options


def _refuse(options: Options) -> None:
    """Raises a ValueError where an option is invalid by itself."""
    on_nan, every = options.on_nan, options.fingerprint_every
    parse_every(options.save_every)
    if on_nan not in ON_NAN:
        raise ValueError(f"on_nan={on_nan!r} must be one of {', '.join(map(repr, ON_NAN))}.")
    if options.is_own_rule and on_nan in ("raise", "skip"):
        raise ValueError(
            f"on_nan={on_nan!r} looks at the gradients of Keras's own training step, but this "
            "model trains by a rule of its own. Check the gradients there, or use on_nan='warn'."
        )
    if every is not None and (type(every) is not int or every < 1):
        raise ValueError(f"fingerprint_every={every!r} must be a whole number of steps from 1.")


def _refuse_whole_rules(options: Options, *, check: Any, has_replica_step: bool) -> None:
    """Raises a ValueError where the rule of training leaves no step that could be whole."""
    if check != "whole":
        return
    if has_replica_step:
        raise ValueError(
            "check='whole' computes a step of Keras or of the model on all rows, and replica_step "
            "says by itself what its shares add up to. Leave check out."
        )
    if options.local_steps is not None:
        raise ValueError(
            f"local_steps={options.local_steps} lets each replica train on its own rows, which "
            "check='whole' would give to all of them. Leave out one of the two."
        )
    refuse_whole(check, already_sharded=options.already_sharded, shapes=options.shapes)


def refuse_whole(check: Any, *, already_sharded: bool, shapes: Shapes) -> None:
    """Raises a ValueError where check="whole" cannot have all rows of a batch, as they are."""
    if check != "whole":
        return
    if already_sharded:
        raise ValueError(
            "check='whole' computes a step on all rows of the global batch, and with "
            "already_sharded=True each worker has its own alone. Give every worker the same data "
            "without already_sharded, or leave check out."
        )
    if shapes.are_static:
        raise ValueError(
            "check='whole' computes a step on the batches as they are, and static_shapes=True or "
            "length_buckets pads those of each replica. Leave out one of the two."
        )


def parse_check(check: Any, *, is_tpu: bool) -> str | bool:
    """Returns "raise", "warn", "whole" or False for the option `check`.

    Raises:
        ValueError: It is none of CHECK, or needs more traces than a TPU should compile.
    """
    if check not in CHECK or (check is not False and not isinstance(check, str)):
        raise ValueError(f"check={check!r} must be one of {', '.join(map(repr, CHECK))}.")
    if is_tpu and check in ("raise", "warn", "whole"):
        raise ValueError(
            f"check={check!r} computes the first step on other numbers of rows, for each of which "
            "a TPU would compile another program. Check it on the CPU, with get_strategy('2xcpu'), "
            "and leave check out here."
        )
    return "raise" if check == "auto" and not is_tpu else check if check != "auto" else False

