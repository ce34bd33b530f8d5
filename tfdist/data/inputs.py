"""Which data do the workers go through together, and do they agree on it?"""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import tensorflow as tf

from tfdist.communication.workers import Workers
from tfdist.compat import keras_internals, tf_internals
from tfdist.data import already_sharded as already_sharded_lib
from tfdist.data import lengths, same_data
from tfdist.data.adapters import make_source
from tfdist.data.feed import Feed, limited
from tfdist.data.padding import pad, refuse_own_share
from tfdist.data.shapes import Shapes
from tfdist.data.source import Source


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Makes feeds of what `fit`, `evaluate` and `predict` are given.

    Attributes:
        workers: The workers of the model's strategy.
        model: The model that the data is for.
    """

    workers: Workers
    model: keras.Model

    def feed(
        self,
        x: Any,
        y: Any = None,
        *,
        steps: int | None,
        already_sharded: bool,
        shapes: Shapes,
        first_pass: int = 0,
        is_alone: bool = False,
        all_rows: bool = False,
        **kwargs: Any,
    ) -> Feed:
        """Makes the feed of some data, and ensures that all workers go through it together.

        Args:
            x: As in `make_source`.
            y: As in `make_source`.
            steps: Steps of an epoch, or None for one pass.
            already_sharded: Whether this worker passes only its own examples.
            shapes: Which shapes batches are given.
            first_pass: Number of the first pass over the data.
            is_alone: Whether the worker may go through its own examples without the others.
            all_rows: Whether a batch is one part with all rows, where there are several replicas.
            **kwargs: As in `make_source`.

        Raises:
            ValueError: The workers were given different data, no data, or unusable data; or the
                model keeps states of rows.
        """
        if x is None:
            raise ValueError("There is no data: x=None. Give arrays, or a dataset, as x.")
        _refuse_states_of_rows(self.model, self.workers.share.num_replicas)
        steps = limited(steps, "steps_per_epoch")
        if shapes.are_static and already_sharded:
            refuse_own_share()
        source = self._source(
            x, y, already_sharded=already_sharded, steps=steps,
            all_rows=all_rows and self.workers.share.num_replicas > 1, **kwargs,
        )
        if already_sharded and not is_alone:
            source = already_sharded_lib.agreed(source, self.workers)
        if not already_sharded and self.workers.has_others:
            facts = {**source.identity(), "length_buckets": list(shapes.buckets)}
            facts["makes examples of its own rows only"] = source.makes_own_rows
            same_data.require(facts, self.workers)
        _refuse_no_end(source, steps)
        if shapes.buckets:
            spec = lengths.opened(source.spec, self.model)
            source = dataclasses.replace(source, spec=spec)
        if shapes.are_static:
            source = pad(source, self.workers.share, shapes.buckets)
        return Feed(source, steps_per_epoch=steps, first_pass=first_pass, in_loop=not is_alone)

    def feed_of(self, source: Source, *, steps: int | None, first_pass: int) -> Feed:
        """Makes the feed of a source in which all workers draw their rows alike.

        Args:
            source: The source.
            steps: As in `feed`.
            first_pass: As in `feed`.
        """
        _refuse_states_of_rows(self.model, self.workers.share.num_replicas)
        if self.workers.has_others:
            same_data.require(source.identity(), self.workers)
        steps = limited(steps, "steps_per_epoch")
        return Feed(source, steps_per_epoch=steps, first_pass=first_pass, in_loop=True)

    def validation_feed(self, data: Any, **kwargs: Any) -> Feed | None:
        """Makes the feed of `validation_data`; returns None for None."""
        if data is None:
            return None
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        return self.feed(x, y, sample_weight=sample_weight, **kwargs)

    def _source(
        self, x: Any, y: Any, *, already_sharded: bool, batch_size: int | None, **kwargs: Any
    ) -> Source:
        share = self.workers.share
        if already_sharded:
            share = already_sharded_lib.alone(share)
            if keras_internals.is_arrays((x, y, kwargs.get("sample_weight"))):
                batch_size = already_sharded_lib.batch_size_of(self.workers.share, batch_size)
        with tf.init_scope(), tf_internals.default_replica_mode():
            return make_source(x, y, share=share, batch_size=batch_size, **kwargs)


def _refuse_states_of_rows(model: keras.Model, num_replicas: int) -> None:
    """Refuses layers that carry a state of each row from one batch to the next."""
    layers = keras_internals.flat_layers(model) if num_replicas > 1 else []
    names = [layer.name for layer in layers if getattr(layer, "stateful", False) is True]
    if names:
        raise ValueError(
            f"stateful=True makes {', '.join(map(repr, names))} keep a state of each row of a "
            f"global batch, but each of the {num_replicas} replicas computes on its share of the "
            "rows only. Use stateful=False and give each example its whole sequence, or train on "
            "one device."
        )


def _refuse_no_end(source: Source, steps: int | None) -> None:
    """Refuses an epoch without batches, and one that would never end."""
    if source.num_batches == 0:
        raise ValueError(
            "The data holds no examples: its number of batches is 0. Give at least one example."
        )
    if source.is_infinite and not steps:
        raise ValueError(
            "The data never ends, and nothing says how long an epoch is. Give steps_per_epoch "
            "(validation_steps for validation_data, steps to evaluate and predict), or leave out "
            ".repeat()."
        )
