"""What are the norms of each example's gradients, and their weighted sum, without the gradients?

"Ghost clipping": the gradient of a kernel for one example is a sum over positions t (timesteps, or
patches of an image) of products `a_t d_t'` of what went in and the loss's gradient of what came
out. Its norm follows from the products of the `a_t` with each other, and of the `d_t`
(Goodfellow 2015, arXiv:1510.01799; Li et al. 2022, arXiv:2110.05679). Where a kernel is smaller
than those products, the gradients themselves are made instead (Bu et al. 2022, arXiv:2205.10683).
The sum over the examples is one product as well, without a second backward pass (Bu et al. 2023,
arXiv:2210.00038).

A norm that is computed from products may come out too small where the positions cancel each other.
So the bound of its rounding error is added: such an example is clipped more, never less. What is
not finite counts nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf


class Gradient(NamedTuple):
    """The gradients of one weight, for each example, in whatever form.

    Attributes:
        squares: Their squared norms, or a little more, of shape `(rows,)`.
        total: Takes factors `(rows,)`, 0 for rows that do not count; returns the sum of the
            gradients times these.
    """

    squares: Any
    total: Callable[[Any], Any]


def of_each(gradients: Any, shape: Sequence[int]) -> Gradient:
    """Returns the `Gradient` of gradients that were made.

    Args:
        gradients: `(rows, ...)`.
        shape: Of the weight.
    """
    flat = tf.reshape(gradients, [tf.shape(gradients)[0], int(np.prod(shape))])

    def total(factors: Any) -> Any:
        return tf.reshape(tf.linalg.matvec(_kept(flat, factors), factors, transpose_a=True), shape)

    return Gradient(tf.reduce_sum(tf.square(flat), 1), total)


def of_products(given: Any, back: Any) -> Gradient:
    """Returns the `Gradient` of a kernel `(inputs, outputs)`.

    Args:
        given: What went in, `(rows, positions, inputs)`.
        back: The gradient of the loss by what came out, `(rows, positions, outputs)`.
    """
    positions, inputs, outputs = given.shape[1], given.shape[2], back.shape[2]
    if positions == 1:
        squares = _squares(given[:, 0]) * _squares(back[:, 0])
    elif positions is not None and inputs * outputs <= 2 * positions**2:
        made = tf.matmul(given, back, transpose_a=True)
        return of_each(made, [inputs, outputs])
    else:
        alike = tf.matmul(given, given, transpose_b=True)
        squares = tf.reduce_sum(alike * tf.matmul(back, back, transpose_b=True), [1, 2])
        most = tf.reduce_sum(tf.sqrt(_squares(given) * _squares(back)), 1)
        squares = tf.maximum(squares, 0) + _lost(most, inputs + outputs, given)

    def total(factors: Any) -> Any:
        weighed = _kept(back, factors) * factors[:, tf.newaxis, tf.newaxis]
        left = tf.reshape(_kept(given, factors), [-1, inputs])
        return tf.matmul(left, tf.reshape(weighed, [-1, outputs]), transpose_a=True)

    return Gradient(squares, total)


def of_lookups(indices: Any, back: Any, size: int) -> Gradient:
    """Returns the `Gradient` of a table of `size` rows.

    Args:
        indices: The rows that were looked up, `(rows, positions)`.
        back: The gradient of the loss by what was found, `(rows, positions, width)`.
        size: Rows of the table.
    """
    alike = tf.cast(tf.equal(indices[:, :, tf.newaxis], indices[:, tf.newaxis, :]), back.dtype)
    squares = tf.reduce_sum(alike * tf.matmul(back, back, transpose_b=True), [1, 2])
    most = tf.reduce_sum(tf.sqrt(_squares(back)), 1)
    squares = tf.maximum(squares, 0) + _lost(most, back.shape[2], back)

    def total(factors: Any) -> Any:
        weighed = _kept(back, factors) * factors[:, tf.newaxis, tf.newaxis]
        flat = tf.reshape(weighed, [-1, back.shape[2]])
        return tf.math.unsorted_segment_sum(flat, tf.reshape(indices, [-1]), size)

    return Gradient(squares, total)


def factors_of(squares: Any, counts: Any, norm: float) -> Any:
    """Returns by how much each example's gradient is multiplied.

    Args:
        squares: Squared norms of the whole gradients, `(rows,)`.
        counts: Whether a row counts, `(rows,)`.
        norm: What they are clipped to.

    Returns:
        At most 1; 0 for a row that does not count, or whose norm is no finite number.
    """
    counts &= tf.math.is_finite(squares)
    safe = tf.where(counts, squares, tf.ones_like(squares))
    bound = tf.constant(norm, squares.dtype)
    factors = tf.where(safe > bound * bound, bound / tf.sqrt(safe), tf.ones_like(safe))
    return tf.where(counts, factors, tf.zeros_like(factors))


def _squares(value: Any) -> Any:
    """Returns squared norms along the last axis; what underflowed to 0 is not taken for nothing."""
    least = float(np.finfo(value.dtype.as_numpy_dtype).tiny) * value.shape[-1]
    return tf.reduce_sum(tf.square(value), -1) + least


def _lost(most: Any, terms: int, like: Any) -> Any:
    """Returns the most that rounding takes from a sum of products, `most` being all its terms."""
    positions = tf.cast(tf.shape(like)[1], like.dtype)
    unit = float(np.finfo(like.dtype.as_numpy_dtype).eps) / 2
    return unit * (terms + positions) * tf.square(most)


def _kept(value: Any, factors: Any) -> Any:
    """Returns zeros for the rows that do not count: 0 times what is not finite is NaN."""
    counts = tf.reshape(factors > 0, [-1, *[1] * (value.shape.rank - 1)])
    return tf.where(counts, value, tf.zeros((), value.dtype))
