"""How is a step computed whole: by every replica on all rows of the global batch?

It is the cure for a program whose step means something else for a part of a batch, and that nobody
may change: each replica then computes as if it were alone, as one device does, and what replica 0
makes of the batch counts. So its gradients and logs are those that are summed, its rows of metrics
are kept, and every other state that a step may write (a codebook, a queue, moving averages) is
taken from it after each step, so that draws that bypass Keras, or rounding on another device, never
lead the replicas apart. It is exactly as fast as one device, and has its numbers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfdist.communication import collectives
from tfdist.communication.share import Share, share_of
from tfdist.data import rows
from tfdist.step.replicas import Batch
from tfdist.step.variables import Entry, components, entries_of

# What collectives sum; other numbers travel as the last one.
_SUMMED = (tf.bfloat16, tf.float16, tf.float32, tf.float64, tf.int32, tf.int64)


def split(batch: Batch, share: Share) -> Batch:
    """Gives each replica its rows of a batch of one part, which has all rows.

    Args:
        batch: One global batch.
        share: Which replicas this worker has.
    """
    (data,) = batch.parts
    size, total = batch.global_size, share.num_replicas
    with tf.device("/CPU:0"):
        parts = tuple(
            rows.cut(data, *rows.computed_bounds(size, replica, total))
            for replica in share.replicas
        )
    return dataclasses.replace(batch, parts=parts)


def of_all_rows(
    step: Callable[[Batch], Any], model: Any, strategy: tf.distribute.Strategy, *, is_whole: bool
) -> Callable[[Batch], Any]:
    """Returns a step for batches of one part, which has all rows.

    Args:
        step: A step for batches as replicas need them.
        model: The model, built.
        strategy: The strategy that it was made under.
        is_whole: Whether it is computed whole; otherwise each replica takes its rows.
    """
    share, states = share_of(strategy), _States(model, strategy)
    if not is_whole:
        return lambda batch: step(split(batch, share))

    def whole(batch: Batch) -> Any:
        states.collect()
        parts = batch.parts * share.local_replicas
        result = step(dataclasses.replace(batch, parts=parts, is_whole=True))
        states.settle()
        return result

    return whole


class _States:
    """The states of a model, before and after a step that is computed whole."""

    def __init__(self, model: Any, strategy: tf.distribute.Strategy) -> None:
        self._model, self._strategy = model, strategy
        self._share = share_of(strategy)

    def collect(self) -> None:
        """Gives replica 0 the metrics' sums so far, and the others zeros."""
        sums = self._sums()
        own = [tf.add_n([part.read_value() for part in parts]) for parts in sums]
        for parts, total in zip(sums, self._of_all(own), strict=True):
            self._keep(parts, total)

    def settle(self) -> None:
        """Keeps what replica 0 has added to metrics, and gives all replicas its other states."""
        for parts in self._sums():
            self._keep(parts, None)
        states = [parts for entry in entries_of(self._model) if _is_state(entry)
                  if len(parts := self._parts(entry)) == self._share.local_replicas]
        is_first = self._share.first_replica == 0
        own = [parts[0].read_value() for parts in states]
        of_first = self._of_all([v if is_first else tf.zeros_like(v) for v in own])
        for parts, value in zip(states, of_first, strict=True):
            for number, part in zip(self._share.replicas, parts, strict=True):
                if number > 0:
                    part.assign(value)

    def _keep(self, parts: Sequence[Any], total: Any) -> None:
        """Clears a sum on all replicas but the first, which gets `total` unless that is None."""
        for number, part in zip(self._share.replicas, parts, strict=True):
            if number > 0:
                part.assign(tf.zeros_like(part))
            elif total is not None:
                part.assign(total)

    def _sums(self) -> list[Sequence[Any]]:
        return [self._parts(e) for e in entries_of(self._model) if e.per_replica == "sum"]

    def _parts(self, entry: Entry) -> Sequence[Any]:
        return components(self._strategy, entry.variable)

    def _of_all(self, values: Sequence[Any]) -> list[Any]:
        """Returns the sums of the workers' values; those of one type travel together."""
        if not self._share.has_others:
            return list(values)
        types = [v.dtype if v.dtype in _SUMMED else _SUMMED[-1] for v in values]
        found: dict[int, Any] = {}
        for dtype in dict.fromkeys(types):
            alike = [i for i, other in enumerate(types) if other == dtype]
            flat = [tf.reshape(tf.cast(values[i], dtype), [-1]) for i in alike]
            total = collectives.sum_over_workers(self._strategy, self._share, tf.concat(flat, 0))
            pieces = tf.split(total, [v.shape.num_elements() for v in flat])
            found |= zip(alike, pieces, strict=True)
        return [tf.reshape(tf.cast(found[i], v.dtype), v.shape) for i, v in enumerate(values)]


def _is_state(entry: Entry) -> bool:
    """Tells whether a step may write a variable by other means than an optimizer."""
    group = entry.name.partition("/")[0]
    if entry.per_replica == "sum" or tf.as_dtype(entry.variable.dtype) == tf.string:
        return False
    if group == "model":
        return not entry.variable.trainable
    return group in ("metrics", "TensorFlow")
