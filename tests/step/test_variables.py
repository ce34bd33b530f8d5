"""Is the list of all that a run is complete, and does it fit any number of replicas?"""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfdist.checkpoint import rng_state
from tfdist.communication.workers import Workers
from tfdist.step import variables as variables_lib


def _strategy(replicas: int) -> tf.distribute.Strategy:
    if replicas == 1:
        return tf.distribute.OneDeviceStrategy("/cpu:0")
    return tf.distribute.MirroredStrategy([f"/cpu:{index}" for index in range(replicas)])


def _model(strategy: tf.distribute.Strategy) -> keras.Model:
    with strategy.scope():
        model = keras.Sequential(
            [
                keras.Input((4,)),
                keras.layers.Dense(3),
                keras.layers.BatchNormalization(),
                keras.layers.Dropout(0.5),
                keras.layers.Dense(2),
            ]
        )
        adam = keras.optimizers.Adam(use_ema=True, gradient_accumulation_steps=2)
        model.compile(keras.optimizers.LossScaleOptimizer(adam), "mse", metrics=["mae"])
        model._symbolic_build(data_batch=(tf.TensorSpec([None, 4]), tf.TensorSpec([None, 2])))
    return model


def _filled(strategy: tf.distribute.Strategy, model: keras.Model, *, is_own: bool = True) -> None:
    """Gives every component of every variable a value of its own where replicas may differ."""
    for number, entry in enumerate(variables_lib.entries_of(model)):
        for replica, part in enumerate(_parts(strategy, entry)):
            step = replica if entry.per_replica and is_own else 0
            part.assign(tf.cast(tf.fill(part.shape, number + 100 * step), part.dtype))


def _parts(strategy, entry):
    return strategy.experimental_local_results(entry.variable.value)


def _values(strategy, model) -> dict[str, list]:
    return {
        entry.name: [part.numpy().tolist() for part in _parts(strategy, entry)]
        for entry in variables_lib.entries_of(model)
    }


def _travelled(strategy, model, entries=None):
    tensors = variables_lib.snapshot(
        entries or variables_lib.entries_of(model), Workers(strategy)
    )
    return {name: np.asarray(tensor) for name, tensor in tensors.items()}


def _restored(tensors, replicas):
    strategy = _strategy(replicas)
    model = _model(strategy)
    entries = variables_lib.entries_of(model)
    assert variables_lib.differences(entries, tensors) == []
    variables_lib.restore(entries, tensors, Workers(strategy))
    return strategy, model


def test_the_list_is_complete():
    names = [entry.name for entry in variables_lib.entries_of(_model(_strategy(1)))]
    assert len(set(names)) == len(names)
    for part in (
        "model/0/sequential/dense/kernel", "moving_mean", "seed_generator_state",
        "optimizer/0/loss_scale_optimizer/iteration", "dynamic_scale", "step_counter",
        "adam/iteration", "adam/learning_rate", "dense_kernel_momentum", "dense_kernel_velocity",
        "dense_kernel_average", "dense_kernel_gradient_accumulator", "metrics/0/loss/total",
        "mean_absolute_error/total",
    ):
        assert any(part in name for name in names), part


@pytest.mark.parametrize("replicas", [1, 2, 3])
def test_every_replica_gets_its_own_value_back(replicas):
    strategy = _strategy(replicas)
    assert strategy.num_replicas_in_sync == replicas
    model = _model(strategy)
    _filled(strategy, model)
    expected = _values(strategy, model)
    if replicas > 1:
        assert expected["metrics/0/loss/total"][0] != expected["metrics/0/loss/total"][1]
    assert _values(*_restored(_travelled(strategy, model), replicas)) == expected


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (4, 3), (2, 4)])
def test_another_number_of_replicas_gets_the_same_sums(before, after):
    strategy = _strategy(before)
    model = _model(strategy)
    _filled(strategy, model)
    expected = _values(strategy, model)
    for name, parts in _values(*_restored(_travelled(strategy, model), after)).items():
        if name.startswith("metrics/"):
            assert np.sum(parts, axis=0) == np.sum(expected[name], axis=0)
            assert not np.any(parts[1:])
        else:
            assert parts == [expected[name][0]] * after


def test_what_is_alike_is_stored_once():
    strategy = _strategy(2)
    model = _model(strategy)
    _filled(strategy, model, is_own=False)
    travelled = _travelled(strategy, model)
    stacked = [name for name in travelled if name.endswith(variables_lib.OF_REPLICAS)]
    assert stacked
    assert all(name.startswith("metrics/") for name in stacked)


def test_a_snapshot_does_not_change_with_its_variables():
    variable = tf.Variable(tf.zeros([1000]))
    strategy = _strategy(1)
    tensors = variables_lib.snapshot(variables_lib.entries_of(variable), Workers(strategy))
    variable.assign_add(tf.ones([1000]))
    variable.scatter_update(tf.IndexedSlices([5.0], [3]))
    assert tensors["variables/0/Variable"].numpy().max() == 0


def test_differences_are_named():
    variables = [tf.Variable(tf.zeros([2, 3]), name="a"), tf.Variable(1, name="b")]
    entries = variables_lib.entries_of(*variables)
    tensors = {entry.name: entry.variable.numpy() for entry in entries}
    assert variables_lib.differences(entries, tensors) == []
    tensors["0/variables/0/a"] = np.zeros([2, 4], np.float32)
    tensors["extra"] = np.zeros([], np.int64)
    del tensors["1/variables/0/b"]
    assert variables_lib.differences(entries, tensors) == [
        "0/variables/0/a: float32[2, 4] in the checkpoint, float32[2, 3] here",
        "1/variables/0/b: absent in the checkpoint, int32[] here",
        "extra: int64[] in the checkpoint, absent here",
    ]


def test_names_do_not_count_what_else_the_process_made():
    first = [entry.name for entry in variables_lib.entries_of(_model(_strategy(1)))]
    assert [entry.name for entry in variables_lib.entries_of(_model(_strategy(1)))] == first


def test_no_variable_is_listed_twice():
    model = _model(_strategy(1))
    once = variables_lib.entries_of(model)
    twice = variables_lib.entries_of(model, model.optimizer, model)
    assert len(twice) == len(once)


def test_streams_go_on_where_they_were():
    import random

    strategy = _strategy(1)
    workers = Workers(strategy)
    keras.utils.set_random_seed(3)
    random.gauss(0, 1)
    np.random.standard_normal()
    keras.random.uniform(())  # makes Keras's own generator
    taken = rng_state.take(workers)

    def draws() -> list[float]:
        return [random.random(), random.gauss(0, 1), np.random.rand(), np.random.standard_normal(),
                float(keras.random.uniform(()))]

    expected = draws()
    assert draws() != expected
    rng_state.give(taken, workers)
    assert draws() == expected


def test_a_generator_of_another_kind_is_left_alone(monkeypatch):
    strategy = _strategy(1)
    workers = Workers(strategy)
    taken = rng_state.take(workers)
    before = np.random.get_bit_generator()
    try:
        np.random.set_bit_generator(np.random.PCG64(1))
        without = rng_state.take(workers)
        rng_state.give(without, workers)
    finally:
        np.random.set_bit_generator(before)
    rng_state.give(taken, workers)
