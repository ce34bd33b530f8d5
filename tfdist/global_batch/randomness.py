"""What does a replica draw? Its own rows of the draw for the global batch.

Keras draws with stateless generators whose state is the same on all replicas, so under stock Keras
every replica drops the same units of its different examples. Here a draw whose first dimension is
the batch is the slice, at the replica's own rows, of the draw that one device makes for the whole
global batch: dropout on N replicas is dropout on one device. Draws of any other shape (noise on
weights, one number for the batch) are the same on all replicas, since one device draws them once.

The generators are counter based (Philox: Salmon et al., "Parallel random numbers: as easy as 1, 2,
3", 2011), so a slice is made by starting the counter further on; it costs what the replica's own
rows cost. Distributions that use a varying number of counters (truncated normal, gamma, ...) are
drawn for the whole global batch and cut: also exact, at N times the cost of the draw. So are normal
numbers where XLA compiles the step: it makes them in pairs, so they depend on how many there are.

Of several batches that were put one after the other, each is drawn for by itself (blocks.py).

There are two limits. `keras.random.shuffle` of the batch (MixUp and CutMix use it) shuffles only
the replica's own rows. And a draw whose first dimension is unknown while tracing counts as a draw
of rows. So Keras's own steps see an open number of rows, and there a draw of fixed size is the same
for all examples (`replicas.run`). A custom step sees the sizes of the data, and there a multiple of
the replica's rows counts as rows too, of which each example has several: nothing shows what a
number was made of. The graph notes such draws, for first_step/.
"""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tfdist.compat import keras_internals
from tfdist.compat.untraced import outside_of_steps
from tfdist.global_batch import position as position_lib
from tfdist.global_batch.blocks import blocks_of_rows, blocks_of_size
from tfdist.global_batch.philox import computed_rows, dims_of, normal_rows, uniform_rows
from tfdist.global_batch.position import Position

#: The collection of a graph with what is said of draws that have several rows for each example.
SEVERAL_ROWS = "tfdist_several_rows"


@dataclasses.dataclass(frozen=True)
class _Keras:
    """Keras's own functions, read before the module's names are replaced."""

    uniform: Callable[..., Any]
    normal: Callable[..., Any]
    dropout: Callable[..., Any]
    categorical: Callable[..., Any]
    floatx: Callable[[], Any]
    seed: Callable[[Any], Any]  # draws a seed and casts it


def keyed_draws(original: Any) -> dict[str, Callable[..., Any]]:
    """Returns replacements for the drawing functions of Keras's TensorFlow backend.

    Args:
        original: The module of the TensorFlow backend's `random` functions.

    Returns:
        Function name to function. Outside of a step (no current position) and on one replica each
        calls the original.
    """
    cast_seed = keras_internals.seed_caster(original)
    draw_seed = _draw_seed_once(original.draw_seed)
    own = _Keras(
        original.uniform, original.normal, original.dropout, original.categorical, original.floatx,
        seed=lambda seed: cast_seed(draw_seed(seed)),
    )
    cut = {name: _cut_from_global(getattr(original, name)) for name in _SHAPED}
    return {
        "draw_seed": draw_seed,
        "uniform": functools.partial(_uniform, own),
        "normal": functools.partial(_normal, own),
        "dropout": functools.partial(_dropout, own),
        "categorical": functools.partial(_categorical, own),
        **cut,
    }


def _uniform(
    own: _Keras, shape: Any, minval: Any = 0.0, maxval: Any = 1.0, dtype: Any = None,
    seed: Any = None,
) -> Any:
    position = _position(shape)
    if position is None:
        return own.uniform(shape, minval, maxval, dtype, seed)
    dtype = dtype or own.floatx()
    minval, maxval = tf.cast(minval, dtype), tf.cast(maxval, dtype)
    raw = uniform_rows(
        shape, position, dtype=dtype, seed=own.seed(seed), blocks=_blocks(shape)
    )
    return raw * (maxval - minval) + minval


def _normal(
    own: _Keras, shape: Any, mean: Any = 0.0, stddev: Any = 1.0, dtype: Any = None, seed: Any = None
) -> Any:
    position = _position(shape)
    if position is None:
        return own.normal(shape, mean, stddev, dtype, seed)
    if position.is_compiled:
        _refuse_padded(position)
        return _cut_from_global(own.normal)(shape, mean, stddev, dtype, seed)
    dtype = dtype or own.floatx()
    raw = normal_rows(shape, position, dtype=dtype, seed=own.seed(seed), blocks=_blocks(shape))
    return raw * tf.convert_to_tensor(stddev, dtype) + tf.convert_to_tensor(mean, dtype)


def _dropout(
    own: _Keras, inputs: Any, rate: float, noise_shape: Any = None, seed: Any = None
) -> Any:
    if rate in (0.0, 1.0):
        return own.dropout(inputs, rate, noise_shape, seed)
    shape = _noise_shape(inputs, noise_shape)
    position = _position(shape)
    if position is None:
        return own.dropout(inputs, rate, noise_shape, seed)
    drawn = uniform_rows(
        shape, position, dtype=inputs.dtype, seed=own.seed(seed), blocks=blocks_of_rows(inputs)
    )
    scale = tf.constant(1 / (1 - rate), inputs.dtype)
    kept = tf.where(drawn >= rate, inputs * scale, tf.zeros((), inputs.dtype))
    kept.set_shape(inputs.shape)
    return kept


def _categorical(
    own: _Keras, logits: Any, num_samples: int, dtype: Any = "int64", seed: Any = None
) -> Any:
    rows = logits.shape[0] if logits.shape[0] is not None else tf.shape(logits)[0]
    position = _position([rows])
    if position is None:
        return own.categorical(logits, num_samples, dtype, seed)
    cut = _Cut(position, rows, blocks_of_rows(logits))
    return cut.of(own.categorical(cut.padded(logits), num_samples, dtype, seed))


def _refuse_padded(position: Position) -> None:
    if position.padded_rows is not None:
        raise ValueError(
            "jit_compile=True draws normal numbers (keras.random.normal, GaussianNoise) for all "
            "rows of a batch at once, and the static shapes do not say how many they are. Compile "
            "with jit_compile=False, or pass static_shapes=False."
        )


_SHAPED = ("randint", "truncated_normal", "gamma", "binomial", "beta")  # take a shape first


class _Cut:
    """Where `own` rows of a replica stand in a draw for the whole global batch.

    Args:
        position: Where the replica stands.
        own: The rows that it draws.
        blocks: Of how many batches, one after the other, they are.
    """

    def __init__(self, position: Position, own: Any, blocks: int = 1) -> None:
        self._blocks = [_Cut(position, own // blocks) for _ in range(blocks)] if blocks > 1 else []
        # Rows of the draw per row of the batch: several if time is folded into the batch.
        per_row = -(-own // computed_rows(position))
        if position.padded_rows is None:
            self.total = per_row * position.global_size
        else:  # with rows that no replica has, which keeps the shape static
            rows = position.of_rows or position.padded_rows
            self.total = per_row * rows * position.collectives.num_replicas
        # An empty replica computes on one row that does not count: any row will do.
        self.start = tf.minimum(per_row * position.offset, self.total - own)
        self._own = own
        if self._blocks:
            self.total = blocks * self._blocks[0].total

    def of(self, whole: Any) -> Any:
        """Returns this replica's rows of a tensor that has the rows of all."""
        if self._blocks:
            parts = tf.split(whole, len(self._blocks))
            return tf.concat([b.of(p) for b, p in zip(self._blocks, parts, strict=True)], 0)
        begin = tf.stack([self.start, *[0] * (whole.shape.rank - 1)])
        return tf.slice(whole, begin, [self._own, *[-1] * (whole.shape.rank - 1)])

    def padded(self, rows: Any) -> Any:
        """Returns this replica's rows at their offset, with ones for the other replicas' rows."""
        if self._blocks:
            parts = tf.split(rows, len(self._blocks))
            return tf.concat([b.padded(p) for b, p in zip(self._blocks, parts, strict=True)], 0)
        rest = [[0, 0]] * (rows.shape.rank - 1)
        whole = tf.pad(rows, [[0, self.total - self._own], *rest], constant_values=1)
        return tf.roll(whole, self.start, axis=0)  # XLA can only pad by a constant


def _cut_from_global(draw: Callable[..., Any]) -> Callable[..., Any]:
    def drawn(shape: Any, *args: Any, **kwargs: Any) -> Any:
        position = _position(shape)
        if position is None:
            return draw(shape, *args, **kwargs)
        dims = dims_of(shape)
        cut = _Cut(position, dims[0], _blocks(shape))

        def spread(value: Any) -> Any:  # a parameter may have one value per row, such as `alpha`
            is_of_rows = tf.is_tensor(value) and value.shape.rank == len(dims) != 0
            return cut.padded(value) if is_of_rows and value.shape[0] != 1 else value

        args, kwargs = keras.tree.map_structure(spread, (args, kwargs), none_is_leaf=False)
        return cut.of(draw(tf.stack([cut.total, *dims[1:]]), *args, **kwargs))

    return drawn


def _draw_seed_once(draw_seed: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Makes the replicas of a process share each draw from a generator outside the strategy.

    Such a generator, like Keras's global one, has one state, which each replica would advance.
    Replicas are traced one after the other and ask for the same seeds in the same order.
    """
    drawn: dict[Any, Any] = {}
    asked: dict[Any, int] = {}
    unseeded: list[Any] = [keras_internals.global_seed_generator()]
    keep = keras_internals.keep_global_seed_generator()

    def generator_of(seed: Any) -> Any:
        if seed is None and unseeded[0] is None:
            unseeded[0] = outside_of_steps(keras.random.SeedGenerator)
            keep(unseeded[0])  # the next step that is traced goes on with it
        return unseeded[0] if seed is None else seed

    def draw(seed: Any) -> Any:
        position = position_lib.current()
        if position is None or isinstance(seed, int):
            return draw_seed(seed)
        if position.row_seed is not None:
            return position.row_seed()
        generator, is_ordered = generator_of(seed), seed is not None
        strategy = tf.distribute.get_strategy()
        if strategy.extended.variable_created_in_scope(generator.state.value):
            return generator.next(ordered=is_ordered)  # each replica has a state of its own
        graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
        source, thread = (id(graph), id(generator)), threading.get_ident()
        number = asked[source, thread] = asked.get((source, thread), -1) + 1
        if (source, number) not in drawn:
            drawn[source, number] = generator.next(ordered=is_ordered)
        return drawn[source, number]

    return draw


def _blocks(shape: Any) -> int:
    dims, position = dims_of(shape), position_lib.current()
    if not dims:
        return 1
    fixed = position.fixed_rows if position else None
    if isinstance(dims[0], int) and fixed not in (None, dims[0]) and not tf.executing_eagerly():
        told = f"a draw of {dims[0]} rows, where a replica has {fixed},"
        tf.compat.v1.get_default_graph().add_to_collection(SEVERAL_ROWS, told)
    return blocks_of_size(dims[0])


def _position(shape: Any) -> Position | None:
    """Returns the position if a draw of `shape` is one of rows of the batch, else None."""
    position = position_lib.current()
    if position is None or (position.collectives.num_replicas == 1 and not position.of_rows):
        return None
    dims = dims_of(shape)
    if not dims:
        return None
    first, local = dims[0], position.padded_rows or position.fixed_rows
    if isinstance(first, int):
        # A fixed first dimension is the batch only if the batch has a fixed size too.
        return position if local and first % local == 0 else None
    return position


def _noise_shape(inputs: Any, noise_shape: Any) -> list[Any]:
    dynamic = tf.unstack(tf.shape(inputs), num=inputs.shape.rank)
    own = [d if d is not None else dynamic[i] for i, d in enumerate(inputs.shape.as_list())]
    if noise_shape is None:
        return own
    return [own[i] if dim is None else dim for i, dim in enumerate(noise_shape)]
