"""How do the outputs of all batches come back, in input order?

If the outputs of all batches differ only in their number of rows, many batches run inside one
traced function, which joins them. Ragged, sparse and otherwise varying outputs come back batch by
batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdist.loop import agreed_end
from tfdist.loop.while_loop import next_where

#: `loop(iterator, num_batches)`: how many batches there were; their outputs, in one part or more.
OutputLoop = Callable[[Any, int], tuple[int, list[Any]]]
Step = Callable[[Any], Any]
Agree = Callable[[tf.Tensor], tf.Tensor]


def make_output_loop(
    step: Step, *, agree: Agree | None, eager: bool = False, joins: bool = True
) -> OutputLoop:
    """Returns a function that runs a step on a number of batches and returns the outputs.

    Args:
        step: Takes one element of the stream; returns the outputs for its rows.
        agree: As in `while_loop.make_loop`.
        eager: Whether to run batch by batch in Python.
        joins: Whether many batches may run in one call of a traced function.
    """
    traced_step = step if eager else tf.function(step, autograph=False, reduce_retracing=True)

    def one_by_one(iterator: Any, num_batches: int) -> tuple[int, list[Any]]:
        outputs: list[Any] = []
        while len(outputs) < num_batches:
            batch = iterator.get_next_as_optional()
            numbers = agreed_end.numbers_of(batch, iterator.element_spec, agree)
            agreed_end.refuse_other_ends(numbers)
            if not agreed_end.goes_on(batch, numbers):
                break
            outputs.append(traced_step(batch.get_value()))
        return len(outputs), outputs

    if eager:
        return one_by_one
    many = tf.function(_many(traced_step, agree), autograph=False, reduce_retracing=True)

    def run(iterator: Any, num_batches: int) -> tuple[int, list[Any]]:
        # The step is traced for the spec of all batches, since a single batch has its own shape.
        if not _can_join(_outputs_of(traced_step, iterator)) or not joins:
            return one_by_one(iterator, num_batches)
        ran, numbers, outputs = many(iterator, tf.constant(num_batches))
        agreed_end.refuse_other_ends(numbers)
        return int(ran), [outputs]

    return run


def _outputs_of(traced_step: Any, iterator: Any) -> Any:
    """Returns the outputs of a batch as specs; traces the step if it was not traced yet."""
    return traced_step.get_concrete_function(iterator.element_spec).structured_outputs


def _can_join(outputs: Any) -> bool:
    """Tells whether the outputs are tensors that differ only in their number of rows."""
    return all(
        isinstance(leaf, (tf.Tensor, tf.TensorSpec))
        and leaf.shape.rank is not None
        and leaf.shape.rank > 0
        and leaf.shape[1:].is_fully_defined()
        for leaf in keras.tree.flatten(outputs)
    )


def _many(traced_step: Any, agree: Agree | None) -> Callable[..., Any]:
    """Returns a function to trace, which runs many batches and joins their outputs."""

    def many(iterator: Any, num_batches: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, Any]:
        structure = _outputs_of(traced_step, iterator)

        def fetch(is_wanted: tf.Tensor) -> tuple[Any, tf.Tensor]:
            batch = next_where(is_wanted, iterator)
            return batch, agreed_end.numbers_of(batch, iterator.element_spec, agree)

        def body(done: Any, batch: Any, _: Any, parts: list[Any]) -> tuple[Any, ...]:
            outputs = keras.tree.flatten(traced_step(batch.get_value()))
            parts = [part.write(done, out) for part, out in zip(parts, outputs, strict=True)]
            return done + 1, *fetch(done + 1 < num_batches), parts

        parts = [_parts_of(leaf) for leaf in keras.tree.flatten(structure)]
        done, _, numbers, parts = tf.while_loop(
            lambda done, batch, numbers, parts: agreed_end.goes_on(batch, numbers),
            body,
            [tf.constant(0), *fetch(num_batches > 0), parts],
            parallel_iterations=1,
        )
        outputs = [part.concat() for part in parts]
        return done, numbers, keras.tree.pack_sequence_as(structure, outputs)

    return many


def _parts_of(leaf: Any) -> tf.TensorArray:
    """Returns an array that collects one output of all batches."""
    shape = tf.TensorShape([None, *leaf.shape[1:]])
    return tf.TensorArray(
        leaf.dtype, size=0, dynamic_size=True, infer_shape=False, element_shape=shape
    )


def as_array(value: Any) -> Any:
    """Returns an output as NumPy's array; ragged and sparse tensors stay what they are."""
    return value if isinstance(value, (tf.RaggedTensor, tf.SparseTensor)) else np.asarray(value)
