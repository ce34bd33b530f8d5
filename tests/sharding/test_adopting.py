"""Do states go from whole to slices and back, and into files, without a change?

What a step does with slices is in the parity table (the rows named "slices").
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from parity import worlds

import tfdist
from tfdist.communication import slices
from tfdist.sharding import adopting, in_slices, shards
from tfdist.sharding.owned_state import OwnedState
from tfdist.sharding.sliced_state import SlicedState

pytestmark = pytest.mark.usefixtures("float64")
_X = np.random.default_rng(0).normal(size=(22, 2, 2))
_Y = np.random.default_rng(1).integers(0, 3, 22)
_FIT = {"batch_size": 6, "shuffle": False, "verbose": 0}


def _adam() -> Any:
    return keras.optimizers.Adam(0.05, use_ema=True, gradient_accumulation_steps=3)


def _adafactor() -> Any:
    return keras.optimizers.Adafactor(0.05, use_ema=True, gradient_accumulation_steps=3)


def _built(scope: Any = None, make: Any = _adam) -> keras.Model:
    keras.utils.set_random_seed(3)
    with scope or keras.name_scope("one"):
        # Of timesteps, the gradient of a Dense has a shape that its trace does not know.
        model = keras.Sequential(
            [keras.Input((2, 2)), keras.layers.Dense(5, "tanh"), keras.layers.Flatten(),
             keras.layers.Dense(3, "softmax")]
        )  # fmt: skip
        model.compile(make(), "sparse_categorical_crossentropy")
    return model


def _distributed(make: Any = _adam) -> keras.Model:
    return _built(worlds.local_strategy(2).scope(), make)


def _everything(model: keras.Model) -> list[np.ndarray]:
    return [v.numpy() for v in [*model.variables, *shards.states_of(model.optimizer)]]


def _assert_alike(one: keras.Model, other: keras.Model) -> None:
    for mine, theirs in zip(_everything(one), _everything(other), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "large"),  # numbers of a slice that is empty between steps
    [(_adam, 2**14), (_adam, 4), (_adafactor, 4)],
)
def test_an_optimizer_that_has_trained_goes_on_in_parts_and_whole(
    make, large, logical_cpus, monkeypatch
):
    monkeypatch.setattr(in_slices, "_LARGE", large)
    monkeypatch.setattr(slices, "BLOCK", large)
    one, model = _built(make=make), _distributed(make)
    for is_sharded in (False, True, True, False):
        one.fit(_X, _Y, **_FIT)
        tfdist.fit(model, _X, _Y, sharded_optimizer=is_sharded, **_FIT)
        assert (shards.of(model.optimizer) is not None) == is_sharded
        _assert_alike(model, one)


def test_a_replica_holds_its_part_alone(logical_cpus):
    model = _distributed()
    tfdist.fit(model, _X, _Y, sharded_optimizer=True, **_FIT)
    states = shards.states_of(model.optimizer)
    sliced = [state for state in states if isinstance(state, SlicedState)]
    assert len(states) == 2 + 4 * 4  # two settings; average, accumulator, two momentums a weight
    assert len(sliced) == len(states) - 2
    for state in sliced:
        numbers = state.shape.num_elements()
        assert [part.shape for part in state.parts] == [(-(-numbers // 2),)] * 2
        assert [part.device[-1] for part in state.parts] == ["0", "1"]


def test_a_replica_holds_what_it_owns_alone(logical_cpus):
    model = _distributed(_adafactor)
    tfdist.fit(model, _X, _Y, sharded_optimizer=True, **_FIT)
    states = shards.states_of(model.optimizer)
    owned = [state for state in states if isinstance(state, OwnedState)]
    # Two settings; average, accumulator and velocity a weight, and two more of a kernel, in the
    # place of which a bias has numbers of no use.
    assert len(states) == 2 + 4 * 5
    assert len(owned) == 4 * 3 + 2 * 2
    # Kernels of 30 and 10 numbers, biases of 3 and 5; of each three states, and rows and columns.
    owners = {state.shape.as_list()[0]: state.owner for state in owned if state.shape.rank == 2}
    assert owners == {10: 0, 2: 1}
    for state in owned:
        (part,) = state.parts
        assert part.shape == state.shape
    held = [sum(state.held_by(replica) for state in owned) for replica in range(2)]
    assert held == [3 * 30 + 10 + 3, 3 * (10 + 3 + 5) + 2 + 5]
    assert shards.of(model.optimizer).held_bytes == 8 * (max(held) + 2) + 4 * 4


@pytest.mark.parametrize("make", [_adam, _adafactor])
def test_files_hold_whole_states(make, logical_cpus, tmp_path):
    model = _distributed(make)
    tfdist.fit(model, _X, _Y, sharded_optimizer=True, **_FIT)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    _assert_alike(loaded, model)
    before = _everything(model)
    tfdist.fit(model, _X, _Y, sharded_optimizer=True, **_FIT)
    model.load_weights(tmp_path / "model.keras")
    for mine, theirs in zip(_everything(model), before, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.slow
def test_batches_are_trained_on_in_slices(logical_cpus):
    one, model = _built(), _distributed()
    one.fit(_X, _Y, **_FIT)
    tfdist.fit(model, _X, _Y, sharded_optimizer=True, **_FIT)
    for _ in range(3):
        one.train_on_batch(_X, _Y)
        tfdist.train_on_batch(model, _X, _Y)
    _assert_alike(model, one)
    assert shards.of(model.optimizer) is not None


def test_other_weights_are_refused(logical_cpus):
    model = _distributed()
    tfdist.fit(model, _X, _Y, sharded_optimizer=True, **_FIT)
    held = shards.of(model.optimizer)
    with pytest.raises(ValueError, match="and was given others"):
        held.update([], model.trainable_variables[:2])


def test_one_replica_holds_all(logical_cpus):
    model = _built()
    adopting.adopt(model, model.distribute_strategy, is_wanted=True)
    assert shards.of(model.optimizer) is None
