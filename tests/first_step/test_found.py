"""Which kind of data is a batch, and what is known of a step by it?"""

from __future__ import annotations

import keras
import tensorflow as tf

from tfdist.first_step import found


def _spec(*shape: int | None, dtype: str = "float32") -> tf.TensorSpec:
    return tf.TensorSpec(shape, dtype)


def test_sizes_and_missing_weights_make_no_other_kind():
    x, y, weights = _spec(None, 3), _spec(4), _spec(None)
    kind = found.data_of((x, y))
    assert kind == found.data_of((_spec(8, 5), y, None))
    assert found.data_of(x) == found.data_of((x, None, None))
    others = [
        x, (x, y, weights), (_spec(None, 3, 1), y), (_spec(None, 3, dtype="int32"), y),
        ({"x": x}, y), (tf.RaggedTensorSpec([None, None], tf.float32), y),
    ]  # fmt: skip
    assert len({kind, *map(found.data_of, others)}) == len(others) + 1


def test_what_passed_with_one_kind_of_data_is_settled_for_it_alone():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    note = (model, tf.distribute.get_strategy(), "train_step")
    settled = (model, "train_step", "raise")
    found.note(*note, found.ALIKE, data="a")
    assert found.is_settled(*settled, data="a")
    assert not found.is_settled(*settled, data="b")
    found.note(*note, found.NOTHING, data="b")
    assert found.is_settled(*settled, data="a")
    assert found.is_settled(*settled, data="b")
    found.note(*note, found.DIFFERS, data="c")
    assert not found.is_settled(*settled, data="a")
    assert found.is_settled(model, "train_step", "warn", data="c")
    found.note(*note, found.WHOLE, data="c")
    assert found.is_settled(model, "train_step", "whole", data="a")
    model.compile("sgd", "mse")
    assert not found.is_settled(*settled, data="a")
