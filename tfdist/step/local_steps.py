"""What if replicas train on their own for some steps, and then average their weights?

This is local SGD, also known as federated averaging, for networks that are too slow for a sum in
every step. A round has H steps. In each, replica i updates its own weights with the gradient of its
own rows only. At the end of the round, with n_i the rows that replica i has seen in it and n their
sum,

    theta = theta_0 + sum_i (n_i / n) (theta_i - theta_0)

which is the weighted mean of all theta_i; the states of the optimizer are averaged likewise. With
H = 1 and an optimizer whose update is linear in the gradient (SGD, also with momentum) this is
plain data parallelism. An outer optimizer, if there is one, gets theta_0 - theta as a gradient.

McMahan et al. 2017, arXiv:1602.05629; Stich 2019, arXiv:1805.09767; with an outer optimizer DiLoCo,
Douillard et al. 2023, arXiv:2311.08105.

Whatever a loss or a layer needs from the other replicas (the valid timesteps of a mask, the moments
of a synchronized normalization) is still exchanged in each step, since it is small. A replica that
a batch leaves empty steps with a gradient of zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfdist.communication import reduction as reduction_lib
from tfdist.communication.compression import EXACT, Reduction
from tfdist.communication.share import is_tpu
from tfdist.compat import keras_internals, replacing, tf_internals
from tfdist.compat.notes import note_of, set_note
from tfdist.compat.untraced import plain_variable
from tfdist.global_batch import position as position_lib
from tfdist.global_batch import tracing
from tfdist.step import replicas, update
from tfdist.step import variables as variables_lib
from tfdist.step.logs import sum_shares
from tfdist.step.replicas import Batch

_OUTER = "outer_optimizer"


class LocalSteps:
    """Rounds of steps that each replica takes by itself, as a `rounds.Rounds`.

    Args:
        model: A compiled model that `refuse` accepts.
        strategy: The strategy that it was made under.
        reduction: How the changes of the weights travel between replicas.
        size: H, the steps of a round.
    """

    is_fixed = True

    def __init__(
        self,
        model: keras.Model,
        strategy: tf.distribute.Strategy,
        reduction: Reduction,
        *,
        size: int,
    ) -> None:
        self.size = size
        self._model, self._strategy, self._reduction = model, strategy, reduction
        weights = self._parts(model.trainable_variables)
        self._starts = [
            [plain_variable(p.dtype, shape=p.shape, device=p.device) for p in of_replicas]
            for of_replicas in weights
        ]
        self._done = plain_variable(tf.int64)
        self._rows = [plain_variable(tf.int64) for _ in weights[0]]

    def begin(self) -> None:
        """Begins a round from the current weights."""
        for counter in (self._done, *self._rows):
            counter.assign(0)
        weights = self._parts(self._model.trainable_variables)
        for starts, of_replicas in zip(self._starts, weights, strict=True):
            for start, part in zip(starts, of_replicas, strict=True):
                start.assign(part.read_value())

    def step(self, batch: Batch) -> dict[str, Any]:
        """Updates each replica's weights by its own rows; a round's last step averages them."""
        model, strategy = self._model, self._strategy
        update.build(strategy, model.optimizer, model.trainable_variables)
        backward = update.backward_of(model)

        def on_replica(data: Any) -> tuple[tf.Tensor, dict[str, Any]]:
            gradients, logs = backward(data)
            position = position_lib.current()
            rows = tracing.num_rows(data) if position is None else position.local_size
            if position is not None:
                share = [v if v is None else position.fraction(v.dtype) for v in gradients]
                whole = [v if v is None else tf.where(v > 0, 1 / v, 0) for v in share]
                pairs = zip(gradients, whole, strict=True)
                gradients = [update.scaled(value, factor) for value, factor in pairs]
            with position_lib.at(None):
                model.optimizer.apply(gradients, model.trainable_variables)
            return tf.cast(rows, tf.int64), logs

        with replacing.without_reduction(model.optimizer):
            rows, logs = replicas.run(
                strategy, on_replica, batch, keeps_sizes=update.asks_for_sizes(model)
            )
        own = strategy.experimental_local_results(rows)
        for counter, count in zip(self._rows, own, strict=True):
            counter.assign_add(count)
        self._done.assign_add(1)
        tf.cond(self._done >= self.size, self._average, lambda: tf.constant(False))
        return sum_shares(strategy, logs)

    def end(self) -> None:
        """Ends an unfinished round."""
        tf.cond(self._done > 0, self._average, lambda: tf.constant(False))

    def begun(self) -> int:
        """Returns 0: between two calls no round is open."""
        return 0

    def _average(self) -> tf.Tensor:
        """Averages weights and states, and gives them to all replicas."""
        model, variables = self._model, self._model.trainable_variables
        weights, slots = self._parts(variables), self._parts(_slots(model.optimizer))
        counts = [counter.read_value() for counter in self._rows]
        moved = [
            [(part - start) * tf.cast(count, part.dtype)
             for part, start, count in zip(parts, starts, counts, strict=True)]
            for parts, starts in zip(weights, self._starts, strict=True)
        ]
        # The number of rows is summed along with them.
        *moves, total = self._sum([*moved, counts], self._reduction)
        held = [
            [part * tf.cast(count, part.dtype) for part, count in zip(parts, counts, strict=True)]
            for parts in slots
        ]
        for parts, value in zip(slots, self._sum(held, EXACT), strict=True):
            for part in parts:
                part.assign(value / tf.cast(total, value.dtype))
        means = [move / tf.cast(total, move.dtype) for move in moves]
        outer = variables_lib.attached(model, _OUTER)
        for parts, starts, mean in zip(weights, self._starts, means, strict=True):
            for part, start in zip(parts, starts, strict=True):
                part.assign(start.read_value() if outer else start + mean)
        if outer:
            with tf_internals.default_replica_mode(), position_lib.at(None):
                outer.apply([-mean for mean in means], variables)
        self.begin()
        return tf.constant(True)

    def _parts(self, variables: Sequence[Any]) -> list[Sequence[Any]]:
        """Returns the variables of this worker's replicas, one sequence per variable."""
        local = self._strategy.experimental_local_results
        return [local(variables_lib.value_of(variable)) for variable in variables]

    def _sum(self, values: Sequence[Sequence[Any]], reduction: Reduction) -> list[Any]:
        joined = [reduction_lib.per_replica(self._strategy, of_replicas) for of_replicas in values]
        return reduction_lib.sum_gradients(self._strategy, joined, reduction)


def refuse(
    model: keras.Model,
    strategy: tf.distribute.Strategy,
    *,
    local_steps: Any,
    outer_optimizer: Any,
    is_own_rule: bool,
    on_nan: str,
) -> None:
    """Raises a ValueError where a model cannot train by local steps, or an argument is invalid."""
    if local_steps is None:
        if outer_optimizer is not None:
            raise ValueError(
                "outer_optimizer was given without local_steps, and updates after their rounds. "
                "Give both."
            )
        return
    if type(local_steps) is not int or not 0 < local_steps < 2**62:
        raise ValueError(f"local_steps={local_steps!r} must be a whole number of steps from 1.")
    if outer_optimizer is not None and not isinstance(outer_optimizer, keras.optimizers.Optimizer):
        raise ValueError(
            f"outer_optimizer={outer_optimizer!r} must be a Keras optimizer, such as "
            "keras.optimizers.SGD(0.7, momentum=0.9, nesterov=True)."
        )
    optimizer = None if is_own_rule else model.optimizer
    obstacles = {
        "a training rule of the model's own": is_own_rule,
        "TPUStrategy": is_tpu(strategy),
        f"on_nan={on_nan!r}": on_nan in ("raise", "skip"),
        "LossScaleOptimizer": isinstance(optimizer, keras.optimizers.LossScaleOptimizer),
        "gradient_accumulation_steps": getattr(optimizer, "gradient_accumulation_steps", None),
        "use_ema": getattr(optimizer, "use_ema", False),
        "constraints of weights": any(v.constraint for v in model.trainable_variables),
    }
    if found := [name for name, is_there in obstacles.items() if is_there]:
        raise ValueError(
            f"local_steps={local_steps} cannot be combined with {found[0]}, which needs the "
            "replicas' sum in each step. Leave out one of the two."
        )


def adopt(model: keras.Model, strategy: tf.distribute.Strategy, outer_optimizer: Any) -> None:
    """Makes an outer optimizer the model's own, or removes it if None is given.

    It is copied inside the strategy's scope. If the same one is given again, the copy is kept, with
    its states.
    """
    given, own = note_of(model, "outer_optimizer", (None, None))
    if outer_optimizer is None:
        own = None
    elif outer_optimizer is not given:
        with strategy.scope():
            own = type(outer_optimizer).from_config(outer_optimizer.get_config())
        set_note(model, "outer_optimizer", (outer_optimizer, own))
    variables_lib.attach(model, _OUTER, own)
    if own is not None:
        update.build(strategy, own, model.trainable_variables)


def _slots(optimizer: Any) -> list[Any]:
    """Returns an optimizer's states, without its step count and its learning rate."""
    kept = {id(variable) for variable in keras_internals.settings_of(optimizer)}
    return [
        variable for variable in optimizer.variables
        if id(variable) not in kept and tf.as_dtype(variable.dtype).is_floating
    ]
