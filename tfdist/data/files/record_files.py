"""How are files of records read, so that each worker reads its own records only?

Synopsis:

    >>> import pathlib, tempfile
    >>> file = pathlib.Path(tempfile.mkdtemp(), "numbers.txt")
    >>> _ = file.write_text("1 2\\n3 4\\n5 6\\n")
    >>> def parse(line):
    ...     numbers = tf.strings.to_number(tf.strings.split(line))
    ...     return numbers[:1], numbers[1]
    >>> dataset = from_files([file], parse, batch_size=2, format="text")
    >>> [y.numpy().tolist() for x, y in dataset]
    [[2.0, 4.0], [6.0]]

The dataset is an ordinary `tf.data.Dataset`. Its elements are the numbers of records, in an order
that is a function of the seed and the pass alone (order.py); a map reads a record by its number. So
a worker that makes only its own rows (pipelines/) reads only its own records, and a run that goes
on begins at any record at once.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfdist.compat.notes import set_note
from tfdist.data.files.parquet_records import ParquetRecords, parquet_records_of
from tfdist.data.files.record_index import Records, records_of
from tfdist.data.order import block_order, epoch_order, group_order
from tfdist.data.rows import unconverted


@dataclasses.dataclass(frozen=True)
class Order:
    """The order of the records of each pass.

    Attributes:
        count: Number of records.
        shuffle: Whether there is another order each pass; a number shuffles within blocks of
            neighbours (`block_order`).
        seed: Seed of the order.
        groups: Records of each group that is read whole; none where each is read by itself.
        batch_size: Rows of a global batch.
    """

    count: int
    shuffle: bool | int
    seed: int
    groups: tuple[int, ...] = ()
    batch_size: int = 1

    def of(self, number: Any) -> np.ndarray:
        """Returns the records of a pass, from 0, in order: int64."""
        if self.shuffle is False:
            return np.arange(self.count)
        if self.groups:
            return group_order(
                self.groups, batch_size=self.batch_size, seed=self.seed, epoch=int(number)
            )
        if self.shuffle is True:
            return epoch_order(self.count, seed=self.seed, epoch=int(number))
        return block_order(self.count, block=self.shuffle, seed=self.seed, epoch=int(number))

    def numbers(self, number: tf.Tensor, begin: tf.Tensor) -> tf.data.Dataset:
        """Returns the dataset of the records of a pass, from position `begin` on."""
        rest = tf.numpy_function(
            lambda number, begin: self.of(number)[begin:], [number, begin], tf.int64, stateful=False
        )
        return tf.data.Dataset.from_tensor_slices(tf.ensure_shape(rest, [None]))


def from_files(
    files: Sequence[str | os.PathLike[str]],
    parse_fn: Callable[..., Any],
    *,
    batch_size: int,
    shuffle: bool | int = False,
    seed: int = 0,
    format: str = "tfrecord",
    columns: Sequence[str] | None = None,
    drop_remainder: bool = False,
) -> tf.data.Dataset:
    """Makes the dataset of global batches of files of records.

    With `tfdist.fit` on N workers, each reads 1/N of the records, and of the bytes. In stock Keras
    it is a dataset as any other.

    Args:
        files: Paths, the same on each worker, in the same order.
        parse_fn: Makes an example of the content of a record, a string scalar, as in
            `Dataset.map`: `x`, `(x, y)` or `(x, y, sample_weight)`, without a batch dimension.
            Of Parquet it is given a dict of scalars and vectors, by column.
        batch_size: Rows of a *global* batch.
        shuffle: Whether each pass has another order, of all records. A number shuffles in two
            levels, for disks on which neighbours are read faster: blocks of so many neighbouring
            records, and then the records of a few blocks together. Parquet is read in row groups,
            which True puts into another order, as the rows in each (`group_order`); without it,
            each worker reads all of them.
        seed: Seed of the order.
        format: "tfrecord", "text" for a record a line, or "parquet" for a record a row.
        columns: Those of Parquet files to read; None for all.
        drop_remainder: Whether a smaller last batch is left out.

    Raises:
        ValueError: There are no records, or a file is not of this format, or cut.
    """
    is_parquet = format == "parquet"
    if columns is not None and not is_parquet:
        raise ValueError(f"columns={columns!r} are those of Parquet. Give format='parquet' too.")
    records: Records | ParquetRecords
    if is_parquet:
        records = parquet_records_of(files, columns=columns)
    else:
        records = records_of(files, format=format)
    if not len(records):
        raise ValueError(f"The data holds no examples: {list(records.files)} have no records.")
    if shuffle is not True and shuffle is not False and (is_parquet or shuffle < 1):
        raise ValueError(
            f"shuffle={shuffle!r} is no number of records. Give True, False or, but for Parquet, "
            "1024."
        )
    groups = tuple(group.rows for group in getattr(records, "groups", ()))
    order = Order(len(records), shuffle, seed, groups, batch_size)
    passes = itertools.count()

    def numbers(_: tf.Tensor) -> tf.data.Dataset:
        """Runs once for each pass over the dataset, as a shuffle would draw a new order."""
        number = tf.numpy_function(lambda: np.int64(next(passes)), [], tf.int64)
        return order.numbers(number, tf.constant(0, tf.int64))

    elements = tf.data.Dataset.from_tensors(0).flat_map(unconverted(numbers))
    elements = elements.apply(tf.data.experimental.assert_cardinality(len(records)))
    set_note(elements, "order", order)
    examples = elements.map(unconverted(_reading(records)), tf.data.AUTOTUNE)
    examples = examples.map(parse_fn, num_parallel_calls=tf.data.AUTOTUNE)
    return examples.batch(batch_size, drop_remainder=drop_remainder).prefetch(tf.data.AUTOTUNE)


def _reading(records: Records | ParquetRecords) -> Callable[[tf.Tensor], Any]:
    if isinstance(records, ParquetRecords):
        return _reading_rows(records)

    def read(number: tf.Tensor) -> tf.Tensor:
        content = tf.numpy_function(records.read, [number], tf.string, stateful=False)
        return tf.ensure_shape(content, [])

    return read


def _reading_rows(records: ParquetRecords) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
    examples = records.examples
    kinds = [tf.string if one.dtype == object else one.dtype for one in examples]

    def read(number: tf.Tensor) -> dict[str, tf.Tensor]:
        values = tf.numpy_function(records.read, [number], kinds, stateful=False)
        return {
            name: tf.ensure_shape(value, one.shape)
            for name, value, one in zip(records.columns, values, examples, strict=True)
        }

    return read
