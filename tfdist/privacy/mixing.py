"""Does a model treat each example by itself?  A trial before the first step, on a few examples.

A private step clips the gradient of each example's own loss. Where a layer or a loss mixes the
examples of a batch (a mean over them, a softmax, negatives from the batch), there is no such thing:
computed one by one, the examples would train another model than in a batch, and computed at once,
one example would move the gradients of others, beyond its norm.

So a few examples are computed together, each of two among copies of itself, and each alone, and
what is computed for it has to be the same. The weights are moved a little for that, since one that
is zero hides what it multiplies; they and all states are put back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfdist.communication import collectives
from tfdist.compat import keras_internals, tf_internals
from tfdist.global_batch import position as position_lib
from tfdist.global_batch import tracing
from tfdist.global_batch.position import Position
from tfdist.privacy.update import outputs_and_losses
from tfdist.step import variables

#: How many examples are computed together.
ROWS = 4
_LARGEST = 2**20  # entries of a weight that is moved, or whose gradient is compared
# Rounding, as a part of the largest number, by the type of a layer's computations.
_TOLERANCES = {"float64": 1e-8, "float32": 1e-4, "bfloat16": 5e-2, "float16": 5e-2}


class _Computed(NamedTuple):
    """What a model makes of a few examples.

    Attributes:
        outputs: Its outputs, with a row for each example.
        losses: The examples' losses.
        parts: What came out of its layers and operations, by their names.
        gradients: Of weights, by the loss of the first example, and by that of the last one.
        draws: How many times random layers drew.
    """

    outputs: list[np.ndarray]
    losses: np.ndarray
    parts: list[tuple[str, np.ndarray]]
    gradients: tuple[list[np.ndarray], list[np.ndarray]]
    draws: int


def refuse(model: keras.Model, strategy: tf.distribute.Strategy, rows: Any) -> None:
    """Raises a ValueError where what is computed for an example depends on others of its batch.

    Args:
        model: The model, built and compiled.
        strategy: The strategy that it was made under.
        rows: A few examples, as unlike as may be: `x`, `(x, y)` or `(x, y, sample_weight)`.
    """
    count = int(next(leaf for leaf in keras.tree.flatten(rows) if leaf is not None).shape[0])
    if count < 2:
        return
    trial = _Trial(model, strategy, rows, count)
    with _put_back(model, strategy, moves=True):
        if trial.is_possible():
            trial.run()
            return
    with _put_back(model, strategy, moves=False):  # the weights were not to be moved
        trial.run()


class _Trial:
    """Computes examples of `rows` in several batches; the arguments are those of `refuse`.

    Args:
        count: The number of the examples.
    """

    def __init__(
        self, model: keras.Model, strategy: tf.distribute.Strategy, rows: Any, count: int
    ) -> None:
        self._model, self._rows, self._count = model, rows, count
        weights = _smaller(model.trainable_variables)
        self._weights = [variables.components(strategy, v)[0] for v in weights]
        kinds = {str(layer.compute_dtype) for layer in keras_internals.flat_layers(model)}
        self._tolerance = max(_TOLERANCES.get(kind, 0.0) for kind in {*kinds, "float64"})

    def is_possible(self) -> bool:
        """Tells whether the losses are numbers, so that they can be compared."""
        return _are_finite(self._computed(range(self._count)))

    def run(self) -> None:
        """Raises a ValueError where an example's numbers depend on others."""
        everyone, last = range(self._count), self._count - 1
        together = self._computed(everyone)
        if self._differing(together, self._computed(everyone), last, last):
            raise ValueError(
                f"privacy=DPSGD(...) cannot tell whether {self._model.name!r} treats each example "
                "by itself, since it draws numbers that Keras does not know of. Use keras.random, "
                "with a keras.random.SeedGenerator."
            )
        for place in (0, last):
            self._require(together, self._computed([place] * self._count), place, place)
        training = not together.draws  # alone, an example would draw other numbers
        if not training:
            together = self._computed(everyone, training=False)
        for place in (0, last):
            self._require(together, self._computed([place], training=training), place, 0)

    def _require(self, one: _Computed, other: _Computed, place: int, own: int) -> None:
        if what := self._differing(one, other, place, own):
            raise ValueError(
                f"privacy=DPSGD(...) clips the gradient of each example by itself, and {what} of "
                f"{self._model.name!r} mixes the examples of a batch: an example has other numbers "
                "beside other examples. Use operations on each example alone, such as "
                "LayerNormalization, or leave privacy out."
            )

    def _differing(self, one: _Computed, other: _Computed, place: int, own: int) -> str:
        """Names what differs first for an example that stands in two places; "" if nothing does."""
        results = [("the output", *pair) for pair in zip(one.outputs, other.outputs, strict=True)]
        results.append(("the loss", one.losses, other.losses))
        found = [name for name, left, right in results
                 if not self._is_alike([left[place]], [right[own]])]  # fmt: skip
        if not found and _are_finite(one, other):  # else 0 times another's gradient may be NaN
            gradients = one.gradients[place > 0], other.gradients[own > 0]
            found = [] if self._is_alike(*gradients) else ["the gradient"]
        if not found:
            return ""
        for (name, left), (_, right) in zip(one.parts, other.parts, strict=False):
            has_rows = left.shape[:1] == one.losses.shape and right.shape[:1] == other.losses.shape
            if has_rows and not self._is_alike([left[place]], [right[own]]):
                return name
        return found[0]

    def _is_alike(self, left: Sequence[Any], right: Sequence[Any]) -> bool:
        """Tells whether arrays are alike, up to a part of the largest number in all of them."""
        numbers = [one[np.isfinite(one)] for one in (*left, *right) if _is_float(one)]
        least = self._tolerance * max((np.abs(one).max(initial=0) for one in numbers), default=0)
        return all(
            np.allclose(one, other, rtol=0, atol=least, equal_nan=True)
            if _is_float(one) else np.array_equal(one, other)
            for one, other in zip(left, right, strict=True)
        )  # fmt: skip

    def _computed(self, numbers: Sequence[int], *, training: bool = True) -> _Computed:
        """Computes a batch of the examples with these numbers."""
        chosen, draws = tf.constant(list(numbers)), 0

        def seed() -> tf.Tensor:
            nonlocal draws
            draws += 1
            return tf.constant([draws, 0], tf.uint32)

        data = keras.tree.map_structure(
            lambda leaf: leaf if leaf is None else tf.gather(leaf, chosen), self._rows,
            none_is_leaf=False,
        )  # fmt: skip
        x, y, _ = keras.utils.unpack_x_y_sample_weight(data)  # a weight of 0 would hide a loss
        size = tf.constant(len(numbers))
        here = Position(size, size, 0, collectives.alone(), keeps_rows=True, row_seed=seed)
        with (
            tf_internals.default_replica_mode(), position_lib.at(here),
            tracing.whole_batch_semantics(reduces_losses=True), _listening(self._model) as made,
            tf.GradientTape(persistent=True) as tape,
        ):  # fmt: skip
            outputs, losses = outputs_and_losses(self._model, (x, y), here, training=training)
            ends = losses[0], losses[-1]
        first, last = (
            _arrays([tf.zeros(()) if one is None else tf.convert_to_tensor(one)
                     for one in tape.gradient(loss, self._weights)])
            for loss in ends
        )  # fmt: skip
        parts = [(name, one) for name, values in made for one in _arrays(values)]
        return _Computed(_arrays(outputs), losses.numpy(), parts, (first, last), draws)


@contextlib.contextmanager
def _listening(model: keras.Model) -> Iterator[list[tuple[str, Any]]]:
    """Collects what the layers and operations of a model return, by their names."""
    made: list[tuple[str, Any]] = []

    def telling(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def told(*args: Any, **kwargs: Any) -> Any:
            found = call(*args, **kwargs)
            made.append((name, found))
            return found

        return told

    layers = keras_internals.flat_layers(model)
    parts = [part for one in layers for part in (one, *getattr(one, "operations", ()))]
    with contextlib.ExitStack() as stack:
        for part in {id(part): part for part in parts}.values():
            own = vars(part)
            if "call" in own:
                stack.callback(own.__setitem__, "call", own["call"])
            else:
                stack.callback(own.pop, "call")
            own["call"] = telling(repr(part.name), part.call)
        yield made


@contextlib.contextmanager
def _put_back(
    model: keras.Model, strategy: tf.distribute.Strategy, *, moves: bool
) -> Iterator[None]:
    """Puts all variables back at the end of a block, and may move the weights at its begin."""
    kept = [
        (component, component.read_value())  # which is no copy before it is written
        for variable in (*model.variables, *model.metrics_variables)
        for component in variables.components(strategy, variable)
    ]
    rng = np.random.default_rng(0)
    try:
        for weight in _smaller(model.trainable_variables) if moves else ():
            factor, more = rng.normal(1, 0.1, weight.shape), rng.normal(0, 0.01, weight.shape)
            for component in variables.components(strategy, weight):
                value = tf.cast(component.read_value(), tf.float64) * factor + more
                component.assign(tf.cast(value, component.dtype))
        yield
    finally:
        for component, value in kept:
            component.assign(value)


def _smaller(weights: Sequence[Any]) -> list[Any]:
    return [weight for weight in weights if np.prod(weight.shape) <= _LARGEST]


def _arrays(values: Any) -> list[np.ndarray]:
    """Returns the dense tensors in a structure; of 16 bits as of 32, which NumPy knows."""
    found = [one for one in keras.tree.flatten(values) if isinstance(one, tf.Tensor)]
    halves = (tf.bfloat16, tf.float16)
    return [(tf.cast(one, tf.float32) if one.dtype in halves else one).numpy() for one in found]


def _are_finite(*computed: _Computed) -> bool:
    return all(np.isfinite(one.losses).all() for one in computed)


def _is_float(values: Any) -> bool:
    return bool(np.issubdtype(np.asarray(values).dtype, np.floating))
