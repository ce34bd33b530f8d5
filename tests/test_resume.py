"""Does a run that was stopped end with the bits of one that was not?

A stop is an exception in a callback here, which is where a kill would leave the files; real kills
are in test_kills.py.
"""

from __future__ import annotations

import itertools
import json
import logging
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfdist
from tfdist import manifest

_X = np.random.default_rng(0).normal(size=(11, 6)).astype(np.float32)
_Y = np.random.default_rng(1).integers(0, 3, size=11)
_STEPS = 3  # of an epoch: 11 examples in batches of 4, the last of 3


class Stop(Exception):
    """Ends a run in its midst."""


class StopAt(keras.callbacks.Callback):
    """Stops at the n-th batch, or before the end of an epoch is saved."""

    def __init__(self, *, batch: int | None = None, epoch: int | None = None) -> None:
        super().__init__()
        self._epoch = epoch
        if batch is not None:  # a hook for batches makes every batch an event
            numbers = itertools.count(1)
            self.on_train_batch_end = lambda *_, **__: self._stop_if(next(numbers) == batch)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._stop_if(epoch == self._epoch)

    def _stop_if(self, condition: bool) -> None:
        if condition:
            raise Stop


def _strategy(replicas: int) -> tf.distribute.Strategy:
    if replicas == 1:
        return tf.distribute.OneDeviceStrategy("/cpu:0")
    return tf.distribute.MirroredStrategy([f"/cpu:{index}" for index in range(replicas)])


def _adam(**kwargs: Any) -> keras.optimizers.Optimizer:
    return keras.optimizers.Adam(0.05, **kwargs)


def _build(
    *,
    replicas: int = 1,
    optimizer: Callable[[], Any] = _adam,
    units: int = 5,
    rate: float = 0.4,
    seed: int | None = 7,
    run_eagerly: bool = True,  # fifteen steps in Python are done before one is traced
    **compile_options: Any,
) -> keras.Model:
    if seed is not None:
        keras.utils.set_random_seed(seed)
    layers = keras.layers
    with _strategy(replicas).scope():
        model = keras.Sequential(
            [
                keras.Input((6,)),
                layers.Dense(units, activation="relu"),
                layers.BatchNormalization(),
                layers.Dropout(rate),
                layers.Dense(3, activation="softmax"),
            ]
        )
        loss = "sparse_categorical_crossentropy"
        model.compile(
            optimizer(), loss, metrics=["accuracy"], run_eagerly=run_eagerly, **compile_options
        )
    return model


def _fit(model: keras.Model, folder: pathlib.Path | None = None, *stops: Any, **kwargs: Any) -> Any:
    kwargs = {"x": _X, "y": _Y, "batch_size": 4, "epochs": 3, "verbose": 0, **kwargs}
    if not isinstance(kwargs["x"], np.ndarray):
        del kwargs["y"], kwargs["batch_size"]
    callbacks = [make() for make in kwargs.pop("make_callbacks", ())]
    if folder is not None:
        kwargs |= {"checkpoint_dir": folder}
    return tfdist.fit(model, callbacks=[*callbacks, *stops], **kwargs)


def _stopped(build: Callable[[], keras.Model], folder: pathlib.Path, stop: StopAt, **kwargs) -> None:
    with pytest.raises(Stop):
        _fit(build(), folder, stop, **{name: _made(value) for name, value in kwargs.items()})


def _made(value: Any) -> Any:
    """Makes anew what a new process would make anew."""
    return value() if getattr(value, "is_maker", False) else value


def _maker(function: Callable[[], Any]) -> Callable[[], Any]:
    function.is_maker = True  # type: ignore[attr-defined]
    return function


def _everything(model: keras.Model) -> list[np.ndarray]:
    variables = [*model.variables, *model.optimizer.variables]
    return [np.array(variable.value) for variable in variables]


def _assert_same_bits(model: Any, history: Any, other: Any, other_history: Any) -> None:
    for one, two in zip(_everything(model), _everything(other), strict=True):
        assert one.tobytes() == two.tobytes()
    assert history.history == other_history.history
    assert history.epoch == other_history.epoch


def _check(tmp_path, stops, *, build=_build, **kwargs):
    """Trains undisturbed, and with these stops; returns the two models."""
    whole = build()
    expected = _fit(whole, **{n: _made(v) for n, v in kwargs.items() if n != "save_every"})
    for stop in stops:
        _stopped(build, tmp_path, stop, **kwargs)
    resumed = build()
    found = _fit(resumed, tmp_path, **{name: _made(value) for name, value in kwargs.items()})
    _assert_same_bits(whole, expected, resumed, found)
    return whole, resumed


_CALLBACKS = (
    lambda: keras.callbacks.EarlyStopping(monitor="loss", patience=1, restore_best_weights=True),
    lambda: keras.callbacks.ReduceLROnPlateau(monitor="val_loss", patience=1, factor=0.5),
    lambda: keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.9),
)


@pytest.mark.parametrize("replicas", [1, 2])
def test_stopped_in_mid_epoch_and_between(tmp_path, replicas):
    _check(
        tmp_path,
        [StopAt(batch=3), StopAt(batch=4), StopAt(epoch=2)],
        build=lambda: _build(replicas=replicas, run_eagerly=False),
        save_every=2,
        epochs=4,
        validation_data=(_X[:6], _Y[:6]),
        make_callbacks=_CALLBACKS,
    )


@pytest.mark.parametrize("batch", range(2, 6))
def test_stopped_at_any_step(tmp_path, batch):
    _check(tmp_path, [StopAt(batch=batch)], save_every=1, epochs=2)


def test_stopped_before_anything_was_saved(tmp_path):
    _stopped(_build, tmp_path, StopAt(batch=1), save_every=1)
    assert not manifest.list_checkpoints(tmp_path)
    _check(tmp_path, [], save_every=1, epochs=1)


_OPTIMIZERS = {
    "accumulation": lambda: _adam(gradient_accumulation_steps=3),
    "ema": lambda: _adam(use_ema=True, ema_overwrite_frequency=4),
    "loss scale": lambda: keras.optimizers.LossScaleOptimizer(_adam(), dynamic_growth_steps=2),
    "schedule": lambda: keras.optimizers.SGD(
        keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5), momentum=0.9
    ),
}


@pytest.mark.parametrize("optimizer", _OPTIMIZERS.values(), ids=_OPTIMIZERS)
def test_optimizers(tmp_path, optimizer):
    _check(
        tmp_path, [StopAt(epoch=1)], build=lambda: _build(optimizer=optimizer), save_every=2
    )


def test_accumulation_average_and_scale_on_two_replicas(tmp_path):
    def optimizer():
        adam = _adam(gradient_accumulation_steps=3, use_ema=True, ema_overwrite_frequency=4)
        return keras.optimizers.LossScaleOptimizer(adam)

    _check(
        tmp_path,
        [StopAt(epoch=1)],
        build=lambda: _build(replicas=2, optimizer=optimizer, run_eagerly=False),
        save_every=2,
    )


def test_swapped_weights(tmp_path):
    _check(
        tmp_path,
        [StopAt(epoch=1), StopAt(batch=2)],
        build=lambda: _build(optimizer=lambda: _adam(use_ema=True, ema_momentum=0.5)),
        save_every=2,
        make_callbacks=[lambda: keras.callbacks.SwapEMAWeights(swap_on_epoch=True)],
    )


@pytest.mark.parametrize(
    "options",
    [
        {"steps_per_execution": 2, "run_eagerly": False},
        {"steps_per_execution": 2},
        {"weighted_metrics": ["accuracy"]},
    ],
    ids=str,
)
def test_compile_options(tmp_path, options):
    _check(tmp_path, [StopAt(epoch=1)], build=lambda: _build(**options), save_every=3)


@pytest.mark.parametrize("shuffle", [True, False, "batch"])
def test_orders_of_arrays(tmp_path, shuffle):
    _check(tmp_path, [StopAt(epoch=1)], save_every=3, shuffle=shuffle)


def _dataset() -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((_X, _Y))


class _Batches(keras.utils.PyDataset):
    """Counts which batches were made."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[int] = []

    def __len__(self) -> int:
        return _STEPS

    def __getitem__(self, index: int) -> Any:
        self.made.append(index)
        return _X[index * 4 : index * 4 + 4], _Y[index * 4 : index * 4 + 4]


def _generated() -> Iterator[Any]:
    for index in itertools.count():
        start = index % _STEPS * 4
        yield _X[start : start + 4], _Y[start : start + 4]


_STREAMS: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "in order": (lambda: _dataset().batch(4), {}),
    "shuffled anew for each pass": (lambda: _dataset().shuffle(11, seed=3).batch(4), {}),
    "shuffled once": (
        lambda: _dataset().shuffle(11, seed=3, reshuffle_each_iteration=False).batch(4), {},
    ),
    "cut into epochs": (
        lambda: _dataset().shuffle(11, seed=3).batch(4).repeat(), {"steps_per_epoch": 4},
    ),
    "of unknown size": (lambda: _dataset().filter(lambda x, y: y < 2).batch(4), {}),
    "PyDataset": (_Batches, {}),
    "PyDataset in order": (_Batches, {"shuffle": False}),
    "generator": (_generated, {"steps_per_epoch": 2}),
}


@pytest.mark.parametrize(("make", "kwargs"), _STREAMS.values(), ids=_STREAMS)
@pytest.mark.filterwarnings("ignore:The data ended")
def test_streams(tmp_path, make, kwargs):
    _check(
        tmp_path, [StopAt(epoch=1), StopAt(batch=3)], save_every=2,
        x=_maker(lambda: make()), **kwargs,
    )


def test_position_in_a_py_dataset_costs_nothing(tmp_path):
    _stopped(_build, tmp_path, StopAt(batch=3), save_every=2, x=_Batches(), shuffle=False)
    batches = _Batches()
    with pytest.raises(Stop):
        _fit(_build(), tmp_path, StopAt(epoch=0), save_every=100, x=batches, shuffle=False)
    assert batches.made == [0, 1, 2]  # the first two for their shapes


def test_validation_that_goes_on_where_it_was(tmp_path):
    validation = _maker(lambda: _dataset().shuffle(11, seed=5).batch(4))
    _check(
        tmp_path, [StopAt(epoch=1)], save_every=2, epochs=4, validation_data=validation,
        validation_steps=2,
    )


