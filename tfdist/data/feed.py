"""Where in the data does an epoch begin and end?

These are Keras's rules, in one file: without `steps_per_epoch` an epoch is one pass over the data;
with it, an epoch continues where the last one stopped, and a pass that ends early ends its epoch.
"""

from __future__ import annotations

import logging
import warnings
from typing import Any

import keras
import tensorflow as tf

from tfdist.compat import tf_internals
from tfdist.data.arrays import Cursor
from tfdist.data.source import Source

_LOG = logging.getLogger("tfdist")


def limited(number: int | None, name: str) -> int | None:
    """Caps `epochs` or `steps_per_epoch` at `keras.config.max_...`, in releases that have it."""
    limit = getattr(keras.config, f"max_{name}", lambda: None)()
    if not limit or (number and number <= limit):
        return number
    warnings.warn(f"Limiting {name} to {limit}", stacklevel=3)
    return limit


class Feed:
    """Provides the iterator of each epoch, and knows how many steps it should have.

    Args:
        source: The batches.
        steps_per_epoch: As in `fit`; None for one pass per epoch.
        first_pass: Number of the first pass over the data: the epoch that training starts with.
        in_loop: Whether the iterator may be a `Cursor`, for a loop that gathers rows itself.
    """

    def __init__(
        self,
        source: Source,
        *,
        steps_per_epoch: int | None,
        first_pass: int = 0,
        in_loop: bool = False,
    ) -> None:
        self.source = source
        self._arrays = source.arrays if in_loop else None
        self.steps_per_epoch = steps_per_epoch
        self.iterator: Any = None
        self._planned: int | None = None
        self._longest = 0  # batches of the longest pass so far, if the length is unknown
        self._pass, self._seen = first_pass, 0
        self._dataset: Any = None
        self._skips = 0  # batches that the dataset skips at its beginning
        self._ahead = 0  # steps of the next epoch that another process has done
        self._ends = 0  # how often the end of a pass was signalled to the source

    @property
    def num_batches(self) -> int | None:
        """Steps of an epoch, for the progress bar; None if unknown."""
        return self.steps_per_epoch or self.source.num_batches

    @property
    def position(self) -> tuple[int, int]:
        """The number of the current pass over the data, and how many of its batches were used."""
        return self._pass, self._seen

    def seek(self, number: int, batch: int = 0) -> None:
        """Makes the next epoch start with a batch of a pass; both count from 0.

        Arrays are reached at once. Any other source is brought to the state that it would have
        after the earlier passes (a dataset that reshuffles for each iterator gets as many
        iterators), and the batches before `batch` are read and dropped.
        """
        for _ in range(0 if self.source.is_seekable else number - self._pass):
            if self.source.is_dataset:
                self._open()
            self._end_pass()
            self._tell_end()
        self._pass, self._seen, self.iterator = number, batch, None

    def state(self, *, rewinds: bool = False) -> dict[str, int]:
        """Returns where the current epoch began, in plain values for `restore`.

        Args:
            rewinds: Whether the next epoch begins a new pass in any case.
        """
        number, batch = self.position
        if rewinds and batch and self.iterator is not None:
            number, batch = number + 1, 0
        found = {"pass": number, "batch": batch, "skips": self._skips}
        return found | {"ends": self._ends, "longest": self._longest}

    def buffers(self) -> Any:
        """Returns the state of the iterator and its buffers, as a tensor for a checkpoint.

        Raises:
            tf.errors.OpError: Something in the dataset cannot be saved.
        """
        resource = tf_internals.iterator_resource(self.iterator)
        ignore = 1  # the state inside random operations and Python functions cannot be saved
        return tf.raw_ops.SerializeIterator(resource_handle=resource, external_state_policy=ignore)

    def restore(self, state: dict[str, int], *, done: int = 0, buffers: Any = None) -> None:
        """Makes the next epoch the one that began at a `state`, after `done` of its steps.

        Args:
            state: What `state` returned.
            done: Steps that were done since.
            buffers: What `buffers` returned, or None.
        """
        self.seek(state["pass"], state["batch"])
        while self._ends < state["ends"]:
            self._tell_end()
        self._longest, self._ahead = state["longest"], done
        if buffers is not None:
            self._skips, self._ahead = state["skips"], 0
            self._dataset = self.source.stream(self._pass, self._skips)
            self.iterator = iter(self._dataset)
            resource = tf_internals.iterator_resource(self.iterator)
            tf.raw_ops.DeserializeIterator(resource_handle=resource, serialized=buffers)
        elif self.source.begin_with is not None and self.steps_per_epoch is None:
            self.source.begin_with(done)
            self._ahead = 0
        elif done and not self.source.is_seekable:
            skipped = state["batch"] + done
            _LOG.info("%d batches are read again to get to where the run was.", skipped)

    def rewind(self) -> None:
        """Makes the next epoch start with the first batch of a pass."""
        if self.iterator is not None and self._seen:
            self._pass, self._seen = self._pass + 1, 0
        self.iterator = None
        # Keras also ends a pass before the first one, and without it a PyDataset that shuffles in
        # `on_epoch_end` would have another order.
        self._tell_end()

    def begin_epoch(self) -> int | None:
        """Opens the epoch and returns its number of steps; None if it lasts until the data ends."""
        self.source.on_pass_begin()
        if self.iterator is None:
            self._open()
        total = self.source.num_batches
        left = None if total is None else total - self._seen
        self._planned = self.steps_per_epoch or left
        if self._planned is not None and left is not None and left < self._planned:
            self._warn_of_the_end()
            self._planned = left
        return self._planned

    def reading_again(self, element: Any) -> Any:
        """Returns an iterator over one element that the epoch's iterator gave, of the same spec."""
        rest = self._dataset.take(0)  # which opens no iterator, as some data counts them
        return iter(tf.data.Dataset.from_tensors(element).concatenate(rest))

    def end_epoch(self, steps: int, *, ended: bool) -> None:
        """Closes an epoch of `steps` steps; `ended` says that the data ran out in it."""
        self._seen += steps
        if ended and not steps and not self._longest:
            raise ValueError(
                "The data holds no examples: it ended before its first batch. Give at least one "
                "example, and look at what .filter() or .take() leave of a dataset."
            )
        if ended and (self._planned is not None or self._seen < self._longest):
            self._warn_of_the_end()
        self._longest = max(self._longest, self._seen)
        total = self.source.num_batches
        if ended or (total is not None and self._seen >= total):
            self._end_pass()
        self._tell_end()

    def _tell_end(self) -> None:
        self._ends += 1
        self.source.on_pass_end()

    def _end_pass(self) -> None:
        self._pass, self._seen = self._pass + 1, 0
        if self.source.endless:
            return  # the iterator goes on with the next pass
        self.iterator = None
        counts = self.source.is_dataset and self._dataset is not None
        if counts and self.source.num_batches and not self.steps_per_epoch:
            # Keras opens an iterator here and throws it away. A dataset that reshuffles for each
            # iterator counts it, and without it would have another order.
            iter(self._dataset)

    def _open(self) -> None:
        start, self._ahead = self._seen + self._ahead, 0
        if self._arrays is not None:
            self.iterator = Cursor(self._arrays, self._pass, start)
            return
        if self._dataset is None or self.source.is_seekable or start or self._skips:
            self._dataset, self._skips = self.source.stream(self._pass, start), start
        self.iterator = iter(self._dataset)

    def _warn_of_the_end(self) -> None:
        if self.steps_per_epoch is None:
            expected = self._planned or self._longest
            cause = f"The data ended before the {expected} batches of an epoch were used"
        else:
            cause = f"The data ended before steps_per_epoch={self.steps_per_epoch} steps were done"
        warnings.warn(
            f"{cause}; the epoch ends here. Give steps_per_epoch * epochs batches, or call "
            ".repeat() on the dataset.",
            stacklevel=4,
        )
