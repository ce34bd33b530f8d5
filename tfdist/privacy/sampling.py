"""Which examples are in a private step, and how do they become batches of one shape?

Every step draws each example by itself (Poisson sampling), so the number of examples varies and
must not show. A batch therefore has room for as many as are ever used, the cap, and rows that are
not needed repeat others and count nowhere. This needs data whose rows can be asked for by number.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import keras
import numpy as np
import tensorflow as tf

from tfdist.communication.share import Share, bounds
from tfdist.compat import keras_internals
from tfdist.data import adapters, rows, rows_dataset, same_data
from tfdist.data.arrays import Arrays, as_tensors
from tfdist.data.numbered_rows import taken
from tfdist.data.rows import unconverted
from tfdist.data.shapes import Padding
from tfdist.data.source import Source
from tfdist.privacy.accountant import Mechanism
from tfdist.privacy.draws import Draws

_HEAD = 2  # numbers before those of the examples: of the step, and of its examples


@dataclasses.dataclass(frozen=True)
class Gathering:
    """How a step's rows are gathered from arrays; see data/arrays.py, whose `Gathering` it is.

    Attributes:
        spec: `x`, `(x, y)` or `(x, y, sample_weight)`: tensor specs with an open number of rows.
        cap: Most examples of a step.
        replicas: Numbers of this worker's replicas.
        num_replicas: Replicas of all workers together.
    """

    spec: Any
    cap: int
    replicas: range
    num_replicas: int

    @functools.cached_property
    def key(self) -> str:
        """A text that identifies how rows are gathered."""
        return f"private {self!r}"

    @property
    def rows(self) -> int:
        """Rows of each replica's part, those that do not count included."""
        return -(-self.cap // self.num_replicas)

    @property
    def specs(self) -> list[tf.TensorSpec]:
        """The specs of the tensors, flat."""
        return _flat(self.spec)

    def batch(self, tensors: Sequence[tf.Tensor], order: tf.Tensor, number: tf.Tensor) -> Any:
        """Gathers a batch; arguments and result are those of `data.arrays.Gathering.batch`.

        A part is a pair: the rows, and the number of the step.
        """
        width = _HEAD + self.cap

        def take(numbers: tf.Tensor) -> Any:
            found = iter([tf.gather(tensor, numbers) for tensor in tensors])
            return keras.tree.map_structure(lambda _: next(found), self.spec, none_is_leaf=False)

        return self.parts(order[number * width : (number + 1) * width], take)

    def parts(self, drawn: tf.Tensor, take: Callable[[tf.Tensor], Any]) -> Any:
        """Returns the number of a batch's rows, and the parts of this worker's replicas.

        Args:
            drawn: Number of the step, number of its examples, and theirs; int64.
            take: Returns the examples that have these numbers.
        """
        step, size = drawn[0], tf.cast(drawn[1], tf.int32)
        indices = tf.ensure_shape(drawn[_HEAD:], [self.cap])
        parts = []
        for replica in self.replicas:
            start, _ = bounds(size, replica, self.num_replicas)
            own = tf.gather(indices, tf.minimum(start + tf.range(self.rows), self.cap - 1))
            parts.append((keras.tree.map_structure(self._fixed, take(own)), step))
        return size, tuple(parts)

    def _fixed(self, leaf: Any) -> Any:
        """Shows the number of rows, which is the same in each batch."""
        return leaf if leaf is None else tf.ensure_shape(leaf, [self.rows, *leaf.shape[1:]])


@dataclasses.dataclass(frozen=True)
class Rows:
    """Data whose rows can be asked for.

    Attributes:
        count: How many there are.
        take: Returns those with the given numbers, an int64 tensor.
        spec: As in `Gathering`.
        facts: What must be the same on every worker, by name.
        tensors: All rows, where they are dense arrays; else None.
    """

    count: int
    take: Callable[[tf.Tensor], Any]
    spec: Any
    facts: Callable[[], dict[str, Any]]
    tensors: list[tf.Tensor] | None

    def some(self, most: int) -> Any:
        """Returns at most so many rows, from all over the data."""
        numbers = np.linspace(0, self.count - 1, min(most, self.count)).astype(np.int64)
        return self.take(tf.constant(numbers))


def rows_of(x: Any, y: Any, sample_weight: Any, class_weight: Any) -> Rows:
    """Returns the data as rows that can be asked for.

    Args:
        x: As in `fit`: arrays, or a `RowsDataset`.
        y: As in `fit`.
        sample_weight: As in `fit`.
        class_weight: As in `fit`.

    Raises:
        ValueError: They cannot be asked for by number, or are not dense.
    """
    is_alone = y is None and sample_weight is None
    if is_alone and rows_dataset.gives_rows(x):
        numbered = rows_dataset.numbered_rows(x)
        some = [numbered.get_rows(np.array([number])) for number in numbered.samples.tolist()]
        weigh = None if class_weight is None else keras_internals.class_weight_map(class_weight)

        def of_dataset(numbers: tf.Tensor) -> Any:
            found = taken(numbered.get_rows, some, numbers)
            return found if weigh is None else weigh(*found)

        spec = rows.open_spec(_spec_of(of_dataset))
        facts = functools.partial(same_data.of_arrays, some)
        return Rows(int(numbered.num_rows or 0), of_dataset, spec, facts, None)
    if not keras_internals.is_arrays((x, y, sample_weight)):
        _refuse(type(x).__name__)
    adapter = adapters.adapter_of(x, y, sample_weight, 1, None, class_weight, False)
    arrays = as_tensors(keras_internals.adapter_arrays(adapter))
    tensors = _flat(arrays)
    if not all(isinstance(tensor, tf.Tensor) for tensor in tensors):
        raise ValueError(
            "Private training gives every batch one shape, and the arrays are sparse or ragged. "
            "Give dense arrays."
        )
    inputs = keras_internals.adapter_inputs(adapter)
    return Rows(
        keras_internals.num_samples(adapter),
        lambda numbers: keras_internals.take_rows(arrays, numbers),
        rows.open_spec(rows.spec_of(arrays)),
        lambda: same_data.of_arrays(inputs), tensors,
    )


def source_of(
    given: Rows,
    *,
    share: Share,
    draws: Draws,
    mechanism_of: Callable[[int], Mechanism],
    expected: int,
    steps: int | None = None,
) -> Source:
    """Makes the source of private training.

    Args:
        given: The data.
        share: Which replicas this worker feeds.
        draws: Draws the examples.
        mechanism_of: Takes the number of all examples; returns what a step gives away.
        expected: Examples of a step in the mean.
        steps: Steps of a pass; by default as many as show each example once, in the mean.
    """
    mechanism = mechanism_of(given.count)
    steps, cap = steps or -(-given.count // expected), mechanism.cap or given.count
    gathering = Gathering(given.spec, cap, share.replicas, share.num_replicas)

    def drawn(step: int) -> np.ndarray:
        found = draws.sample(
            int(step), population=given.count, probability=mechanism.sampling_probability, cap=cap
        )
        filled = np.zeros(_HEAD + cap, np.int64)
        filled[:_HEAD] = step, len(found)
        filled[_HEAD : _HEAD + len(found)] = found
        return filled

    def order(number: int) -> np.ndarray:
        return np.concatenate([drawn(number * steps + own) for own in range(steps)])

    def stream(first_pass: int, start: int) -> tf.data.Dataset:
        def parts_of(step: tf.Tensor) -> Any:
            numbers = tf.numpy_function(drawn, [step], tf.int64)
            return gathering.parts(tf.ensure_shape(numbers, [_HEAD + cap]), given.take)

        numbers = tf.data.Dataset.range(first_pass * steps + start, np.iinfo(np.int64).max)
        return numbers.map(unconverted(parts_of)).prefetch(tf.data.AUTOTUNE)

    arrays = None
    if given.tensors is not None:
        arrays = Arrays(given.tensors, given.count, order, gathering, steps)
    facts = {"number of examples": given.count, "expected batch size": expected}
    return Source(
        steps, given.count, given.spec, stream, endless=True, is_seekable=True,
        makes_own_rows=arrays is None, batch_size=lambda: cap,
        identity=lambda: {**facts, **given.facts()},
        padding=Padding(gathering.rows, is_needed=True),
        arrays=arrays,
    )


def _spec_of(take: Callable[[tf.Tensor], Any]) -> Any:
    numbers = tf.data.Dataset.from_tensors(tf.zeros([1], tf.int64))
    return numbers.map(unconverted(take)).element_spec


def _refuse(kind: str) -> NoReturn:
    raise ValueError(
        f"Private training draws every example by itself, and a {kind} gives no example by its "
        "number: shuffled batches have no such promise. Give arrays, or a tfdist.RowsDataset that "
        "reads examples by their numbers."
    )


def _flat(structure: Any) -> list[Any]:
    return [leaf for leaf in keras.tree.flatten(structure) if leaf is not None]
