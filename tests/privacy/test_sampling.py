"""Do drawn examples become batches of one shape, whose other rows belong to nobody?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import tfdist
from tfdist.communication.share import Share
from tfdist.data.arrays import Cursor
from tfdist.privacy import sampling
from tfdist.privacy.accountant import Mechanism
from tfdist.privacy.draws import Draws

_COUNT, _EXPECTED, _CAP = 20, 4, 7


class _Alone:
    def from_chief(self, payload: bytes) -> bytes:
        return payload


def _source(x: Any, y: Any = None, **kwargs: Any) -> Any:
    draws = Draws()
    draws.begin(_Alone(), seed=1, scale=1.0)

    def mechanism_of(population: int) -> Mechanism:
        assert population == _COUNT
        return Mechanism(1.0, _EXPECTED / _COUNT, _CAP, _COUNT)

    source = sampling.source_of(
        sampling.rows_of(x, y, None, None), share=Share(0, 2, 3), draws=draws,
        mechanism_of=mechanism_of, expected=_EXPECTED, **kwargs,
    )
    return source, draws


class _Rows(tfdist.RowsDataset):
    def get_rows(self, indices: np.ndarray) -> Any:
        return indices.astype("float32")[:, None], 10 * indices


def _check(batch: Any, draws: Draws, step: int) -> None:
    size, parts = batch[:2]
    expected = draws.sample(step, population=_COUNT, probability=_EXPECTED / _COUNT, cap=_CAP)
    assert int(size) == len(expected)
    bounds = [-(-replica * len(expected) // 3) for replica in range(4)]
    for replica, ((x, y), number) in enumerate(parts):
        own = expected[bounds[replica] : bounds[replica + 1]]
        assert x.shape == (3, 1)
        assert y.shape == (3,)
        assert int(number) == step
        np.testing.assert_array_equal(x[: len(own), 0], own)
        np.testing.assert_array_equal(y, 10 * x[:, 0])


def test_arrays_are_gathered_by_the_loop():
    x = np.arange(_COUNT, dtype="float32")[:, None]
    source, draws = _source(x, 10 * np.arange(_COUNT))
    assert source.num_batches == 5
    assert source.padding.rows == 3
    assert source.padding.is_needed
    cursor, sizes = Cursor(source.arrays, 0, 0), []
    for step in range(11):
        arrays = cursor.arrays
        batch = arrays.gathering.batch(arrays.tensors, cursor.order, cursor.batch)
        _check(batch, draws, step)
        sizes.append(int(batch[0]))
        cursor.advance(1)
    assert max(sizes) > min(sizes)


@pytest.mark.parametrize("begin", [(0, 0), (2, 3)])
def test_rows_are_asked_for_and_a_run_goes_on_anywhere(begin):
    source, draws = _source(_Rows(num_rows=_COUNT, batch_size=2))
    assert source.arrays is None
    assert [one.shape[0] for one in source.stream(0, 0).element_spec[1][1][0]] == [3, 3]
    for step, batch in enumerate(source.stream(*begin).take(6), begin[0] * 5 + begin[1]):
        _check(batch, draws, step)


def test_an_epoch_may_have_any_number_of_steps():
    source, _ = _source(np.zeros((_COUNT, 1)), np.zeros(_COUNT), steps=3)
    assert source.num_batches == source.arrays.num_batches == 3


@pytest.mark.parametrize(
    "data",
    [lambda: tf.data.Dataset.range(3).batch(1), lambda: iter([np.zeros((2, 2))])],
)
def test_data_without_numbers_is_refused(data):
    with pytest.raises(ValueError, match="gives no example by its number"):
        _source(data())
