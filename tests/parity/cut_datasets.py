"""Rows: the datasets of other topics with a map for each example, each worker making its own rows.

Only datasets whose batches have one size, but for the last one, can be made so.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf

from parity import batches, lookups, randomness, static_lengths, static_shapes
from parity.case import Case
from tfdist.data import rows

_NAMES = (
    "dataset with sample weights",
    "positions, batches of fixed size",
    "positions, train_step of its own, batches of fixed size, fixed",
    "positions, train_step of its own, batches of fixed size, alike",
    "Dropout and noise, batches of fixed size",
    "Dropout, batches of fixed size that are smaller than the replicas",
    "draws of the size of weights, batches of fixed size",
    "Dropout of a loss of its own, batches of fixed size",
    "static: dataset with weights",
    "lengths: Embedding and LSTM",
    "lengths: masked mean",
    "lengths: one class a word",
    "lengths: one class a word, weights of words",
    "lengths: reduction sum",
    "lengths: reduction mean_with_sample_weight",
    "lengths: reduction None",
    "lengths: metrics that look at no mask",
    "lengths: synchronized normalization",
    "lengths: transformer",
    "lengths: transformer, one class a word",
    "lengths: two inputs, each of its own length",
    "lengths: jit_compile, masked mean",
    "lengths: jit_compile, one class a word",
    "lengths: run_eagerly",
    "lengths: dropout, batches as long as the buckets",
)


def cut(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Returns the same batches, made of examples that a map has made, one of one."""
    fixed, count = rows.fixed(dataset.element_spec), int(dataset.cardinality())
    sizes = [int(rows.count(batch)) for batch in dataset]
    assert len({*sizes[:-1]}) <= 1
    assert sizes[-1] <= sizes[0]
    examples = dataset.unbatch().map(lambda *example: example)
    made = examples.batch(sizes[0], drop_remainder=fixed is not None)
    return made.apply(tf.data.experimental.assert_cardinality(count))


def _row(case: Case) -> Case:
    def data() -> dict[str, Any]:
        found = case.data()
        return {**found, "x": cut(found["x"])}

    worlds = ("2 workers", "3 workers")
    return dataclasses.replace(
        case, name=f"cut: {case.name}", data=data, worlds=worlds, quick=False
    )


_OTHERS = (batches, lookups, randomness, static_shapes, static_lengths)
_BY_NAME = {case.name: case for topic in _OTHERS for case in topic.ROWS}
ROWS = tuple(_row(_BY_NAME[name]) for name in _NAMES)
