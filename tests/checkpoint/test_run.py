"""Does a run that was stopped end with the bits of one that was not?

A stop is an exception in a callback here, which is where a kill would leave the files; real kills
are in tests/faults/test_kills.py.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import logging
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfdist
from tfdist.checkpoint import manifest
from tfdist.cluster import contract
from tfdist.compat import keras_internals

pytestmark = pytest.mark.slow

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
    # TensorFlow's own choice of collectives mixes up two such strategies of one process.
    return tfdist.get_strategy(f"{replicas}xcpu", cluster=None)


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


def _stopped(build: Callable[[], Any], folder: pathlib.Path, stop: StopAt, **kwargs: Any) -> None:
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
        [StopAt(batch=5), StopAt(epoch=2)],
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


def _unordered() -> tf.data.Dataset:
    options = tf.data.Options()
    options.deterministic = False  # so that its buffers are saved; there is nothing to reorder
    return _dataset().shuffle(11, seed=3).batch(4).with_options(options)


class _Batches(keras.utils.PyDataset):
    """Counts which batches were made."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[int] = []
        self.ends = 0

    def __len__(self) -> int:
        return _STEPS

    def __getitem__(self, index: int) -> Any:
        self.made.append(index)
        return _X[index * 4 : index * 4 + 4], _Y[index * 4 : index * 4 + 4]


    def on_epoch_end(self) -> None:
        self.ends += 1


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
    "cut into epochs, in no fixed order": (lambda: _unordered().repeat(), {"steps_per_epoch": 2}),
    "of unknown size": (lambda: _dataset().filter(lambda x, y: y < 2).batch(4), {}),
    "PyDataset": (_Batches, {}),
    "PyDataset in order": (_Batches, {"shuffle": False}),
    "generator": (_generated, {"steps_per_epoch": 2}),
}


@pytest.mark.parametrize(("make", "kwargs"), _STREAMS.values(), ids=_STREAMS)
@pytest.mark.filterwarnings("ignore:The data ended")
def test_streams(tmp_path, make, kwargs):
    _check(
        tmp_path, [StopAt(epoch=1), StopAt(batch=2)], save_every=2,
        x=_maker(lambda: make()), **kwargs,
    )


def test_position_in_a_py_dataset_costs_nothing(tmp_path):
    _stopped(_build, tmp_path, StopAt(batch=3), save_every=2, x=_Batches(), shuffle=False)
    batches = _Batches()
    with pytest.raises(Stop):
        _fit(_build(), tmp_path, StopAt(epoch=0), save_every=100, x=batches, shuffle=False)
    assert batches.made == [0, 1, 2]  # the first two for their shapes


def test_a_py_dataset_is_told_of_as_many_ends(tmp_path):
    whole, first, rest = (
        {"x": _Batches(), "validation_data": _Batches(), "save_every": 2} for _ in range(3)
    )
    _fit(_build(), tmp_path / "whole", **whole)
    _stopped(_build, tmp_path / "parts", StopAt(epoch=1), **first)
    _fit(_build(), tmp_path / "parts", **rest)
    for name in ("x", "validation_data"):  # it may shuffle itself whenever it is told
        assert rest[name].ends == whole[name].ends > 0


def test_validation_that_goes_on_where_it_was(tmp_path):
    validation = _maker(lambda: _dataset().shuffle(11, seed=5).batch(4))
    _check(
        tmp_path, [StopAt(epoch=1)], save_every=2, epochs=4, validation_data=validation,
        validation_steps=2,
    )


class Seen(keras.callbacks.Callback):
    """Counts what happens in this process; what happened before it is no part of that."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Any] = []

    def get_state(self) -> None:
        return None

    def set_state(self, state: None) -> None:
        pass

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.events.append(f"begin {epoch}")

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.events.append(batch)

    def on_train_end(self, logs: Any = None) -> None:
        self.events.append(sorted(logs))


def test_a_finished_run_gives_its_weights_and_history_at_once(tmp_path):
    whole = _build(optimizer=lambda: _adam(use_ema=True))
    expected = _fit(whole, tmp_path, make_callbacks=_CALLBACKS, validation_data=(_X, _Y))
    again, seen = _build(optimizer=lambda: _adam(use_ema=True)), Seen()
    found = _fit(again, tmp_path, seen, make_callbacks=_CALLBACKS, validation_data=(_X, _Y))
    _assert_same_bits(whole, expected, again, found)
    (logs,) = seen.events
    assert logs == ["accuracy", "loss", "val_accuracy", "val_loss"]


def test_more_epochs_go_on_from_there(tmp_path):
    whole = _build(optimizer=lambda: _adam(use_ema=True))
    expected = _fit(whole, epochs=4)
    _fit(_build(optimizer=lambda: _adam(use_ema=True)), tmp_path, epochs=2)
    longer = _build(optimizer=lambda: _adam(use_ema=True))
    _assert_same_bits(whole, expected, longer, _fit(longer, tmp_path, epochs=4))


def test_a_run_that_ended_early_stays_ended(tmp_path):
    stopping = [
        lambda: keras.callbacks.EarlyStopping(monitor="loss", patience=1, min_delta=100.0)
    ]
    whole = _build()
    expected = _fit(whole, tmp_path, epochs=9, make_callbacks=stopping)
    assert len(expected.epoch) == 2
    again, seen = _build(), Seen()
    found = _fit(again, tmp_path, seen, epochs=20, make_callbacks=stopping)
    _assert_same_bits(whole, expected, again, found)
    assert seen.events == [["accuracy", "loss"]]
    assert again.stop_training


def test_events_of_an_epoch_that_goes_on(tmp_path):
    _stopped(_build, tmp_path, StopAt(batch=5), save_every=2)
    seen = Seen()
    _fit(_build(), tmp_path, seen, save_every=2)
    assert seen.events == ["begin 1", 1, 2, "begin 2", 0, 1, 2, ["accuracy", "loss"]]


def _saved_steps(folder: pathlib.Path) -> list[int]:
    return [manifest.peek(path)["step"] for path in manifest.list_checkpoints(folder)]


@pytest.mark.parametrize(
    ("save_every", "eager", "steps"),
    [
        (None, True, [3, 6]),
        (2, True, [2, 4, 6, 6]),
        (2, False, [2, 4, 6, 6]),
        (4, False, [4, 6]),
        (100, True, [6]),
        ("1h", True, [6]),
        (datetime.timedelta(microseconds=1), True, [1, 2, 3, 4, 5, 6, 6]),
    ],
    ids=str,
)
def test_when_it_is_saved(tmp_path, save_every, eager, steps):
    checkpointer = tfdist.Checkpointer(tmp_path, keep=20)
    with checkpointer:
        _fit(_build(run_eagerly=eager), checkpointer, epochs=2, save_every=save_every)
    assert _saved_steps(tmp_path) == steps


def test_the_best_epoch_is_kept_and_can_be_had(tmp_path):
    model = _build()
    with tfdist.Checkpointer(tmp_path, keep=1, best="max loss") as checkpointer:
        history = _fit(model, checkpointer, save_every=2, epochs=4)
        worst = int(np.argmax(history.history["loss"]))
        assert _saved_steps(tmp_path) == [3 * worst + 3, 12]
        progress = checkpointer.restore(model, which="best")
    assert int(np.asarray(model.optimizer.iterations)) == 3 * worst + 3
    assert progress is None


def test_a_folder_of_a_checkpointer_alone_is_of_another_run(tmp_path):
    model = _build()
    with tfdist.Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(model, step=1)
    with pytest.raises(ValueError, match="is of another run: seed: absent in the checkpoint"):
        _fit(model, tmp_path)


def test_a_damaged_newest_one_costs_some_steps_alone(tmp_path, caplog):
    whole = _build()
    expected = _fit(whole)
    _stopped(_build, tmp_path, StopAt(batch=6), save_every=2)
    newest = manifest.list_checkpoints(tmp_path)[-1]
    with open(newest / "tensors.data-00000-of-00001", "r+b") as file:
        file.seek(100)
        file.write(b"damage")
    resumed = _build()
    with caplog.at_level(logging.WARNING, "tfdist"):
        found = _fit(resumed, tmp_path, save_every=2)
    assert f"{newest} is damaged: the content of tensors.data" in caplog.text
    _assert_same_bits(whole, expected, resumed, found)


def test_a_seed_that_was_drawn_is_that_of_the_run(tmp_path):
    keras.utils.set_random_seed(1)
    seeds = []
    for stop in ([StopAt(batch=4)], []):
        keras_internals.module("keras.src.backend.common.global_state").set_global_attribute(
            "random_seed", None
        )
        model = _build(seed=None)
        with pytest.raises(Stop) if stop else contextlib.nullcontext():
            _fit(model, tmp_path, *stop, save_every=2)
        found = [manifest.peek(path)["run"] for path in manifest.list_checkpoints(tmp_path)]
        seeds += [run["seed"] for run in found]
    assert len(set(seeds)) == 1


_OTHER_RUNS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "units": ({"units": 6}, {}, r"model\.config.*units: 5 in the checkpoint, 6 here"),
    "rate": ({"rate": 0.1}, {}, r"model\.config.*rate: 0\.4 in the checkpoint, 0\.1 here"),
    "optimizer": (
        {"optimizer": keras.optimizers.SGD}, {},
        "model.optimizer.class_name: 'Adam' in the checkpoint, 'SGD' here",
    ),
    "clipping": (
        {"optimizer": lambda: _adam(clipnorm=1.0)}, {},
        r"model.optimizer.config.clipnorm: None in the checkpoint, 1\.0 here",
    ),
    "metrics": (
        {"weighted_metrics": ["mae"]}, {}, "model.weighted_metrics: None in the checkpoint"
    ),
    "seed": ({"seed": 8}, {}, "seed: 7 in the checkpoint, 8 here"),
    "batch size": ({}, {"batch_size": 5}, "data.batch size: 4 in the checkpoint, 5 here"),
    "examples": ({}, {"x": _X[:9], "y": _Y[:9]}, "data.number of examples: 11 in the ch.*, 9 here"),
    "content": ({}, {"x": _X + 1}, "data.contents: '.*' in the checkpoint, '.*' here"),
    "kind": (
        {}, {"x": _maker(lambda: _dataset().batch(4))},
        r"data\.arrays: 'float32\(11, 6\), int64\(11,\)' in the checkpoint, 'absent' here",
    ),
    "shuffle": ({}, {"shuffle": False}, "shuffle: True in the checkpoint, False here"),
    "steps": ({}, {"steps_per_epoch": 2}, "steps_per_epoch: None in the checkpoint, 2 here"),
    "weights": ({}, {"class_weight": {0: 2.0}}, "class_weight: None in the checkpoint, {'0': 2.0}"),
}


@pytest.fixture(scope="module")
def other_run(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("other")
    _fit(_build(), folder, epochs=1)
    return folder


@pytest.mark.parametrize(("of_model", "of_fit", "said"), _OTHER_RUNS.values(), ids=_OTHER_RUNS)
def test_another_run_is_refused_by_the_difference(other_run, of_model, of_fit, said):
    before = _saved_steps(other_run)
    with pytest.raises(ValueError, match=f"is of another run: (.*; )?{said}"):
        _fit(_build(**of_model), other_run, **{n: _made(v) for n, v in of_fit.items()})
    assert _saved_steps(other_run) == before
    _fit(_build(), other_run, epochs=1)  # and the right one goes on


def test_another_learning_rate_is_told(other_run, caplog):
    model = _build(optimizer=lambda: keras.optimizers.Adam(0.01))
    with caplog.at_level(logging.WARNING, "tfdist"):
        _fit(model, other_run, epochs=1)
    assert "The learning rate is 0.00999" in caplog.text
    assert "and was 0.05000000074505806 when the run began" in caplog.text
    assert float(np.asarray(model.optimizer.learning_rate)) == np.float32(0.05)


def test_another_number_of_threads_is_told(tmp_path, caplog, monkeypatch):
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "3")
    _fit(_build(), tmp_path, epochs=1)
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "4")
    with caplog.at_level(logging.WARNING, "tfdist"):
        _fit(_build(), tmp_path, epochs=2)
    assert "to rounding only: threads: 3 in the checkpoint, 4 here." in caplog.text


def test_steps_of_replicas_on_their_own_are_bound_to_their_number(tmp_path):
    kwargs = {"epochs": 1, "local_steps": 2, "check": False}
    _fit(_build(replicas=2), tmp_path, **kwargs)
    told = "replicas with steps of their own: 2 in the checkpoint, 1 here"
    with pytest.raises(ValueError, match=told):
        _fit(_build(), tmp_path, **kwargs)


@pytest.mark.parametrize("is_elastic", [True, False])
def test_it_saves_and_leaves_when_the_launcher_asks(tmp_path, monkeypatch, caplog, is_elastic):
    monkeypatch.setenv(contract.RUN_DIR, str(tmp_path))
    monkeypatch.setenv(contract.ELASTIC, "1" if is_elastic else "0")

    def ask(step: int, logs: Any) -> None:
        if step == 2:
            contract.ask_to_leave(str(tmp_path))

    asking = keras.callbacks.LambdaCallback(on_train_batch_end=ask)
    if not is_elastic:
        _fit(_build(), tmp_path / "run", asking, epochs=1)
        return
    with pytest.raises(contract.Saved) as caught, caplog.at_level(logging.WARNING, "tfdist"):
        _fit(_build(), tmp_path / "run", asking)
    assert caught.value.code == contract.PREEMPTED
    assert "The number of workers changes: the run is saved at step 3 and ends" in caplog.text
    assert _saved_steps(tmp_path / "run") == [3]


@pytest.mark.parametrize(
    ("kwargs", "error", "said"),
    [
        ({"save_every": 5}, ValueError, "save_every=5 was given without a checkpoint_dir"),
        ({"save_every": 0, "checkpoint_dir": "runs"}, ValueError, "save_every=0 must be"),
        ({"checkpoint_dir": __file__}, ValueError, "is a file, or lies below one"),
        ({"checkpoint_dir": "/proc/tfdist"}, RuntimeError, "cannot be written to"),
        ({"checkpoint_dir": "s3://bucket/run"}, ValueError, "is an address"),
    ],
)
def test_arguments_that_cannot_be(kwargs, error, said):
    with pytest.raises(error, match=said):
        _fit(_build(), **kwargs)


def test_a_model_whose_optimizer_nobody_knows(tmp_path):
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)])
    trainer = tfdist.Trainer(model, replica_step=lambda batch: {})
    with pytest.raises(ValueError, match="the model has no optimizer that could be saved"):
        trainer.fit(_X, _Y, checkpoint_dir=tmp_path)


@pytest.mark.filterwarnings("ignore:unclosed file", "ignore:Exception ignored in")
def test_rows_of_a_csv_log(tmp_path):
    def log(name: str) -> list[Callable[[], Any]]:
        return [lambda: keras.callbacks.CSVLogger(str(tmp_path / name))]

    _fit(_build(), make_callbacks=log("whole"))
    _stopped(_build, tmp_path / "run", StopAt(epoch=1), save_every=2, make_callbacks=log("parts"))
    _fit(_build(), tmp_path / "run", save_every=2, make_callbacks=log("parts"))
    assert (tmp_path / "parts").read_text() == (tmp_path / "whole").read_text()


def test_draws_of_the_process_go_on(tmp_path):
    class Draws(keras.callbacks.Callback):
        def __init__(self) -> None:
            super().__init__()
            self.drawn: list[float] = []

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.drawn.append(float(np.random.rand()))

    draws = [Draws(), Draws(), Draws()]
    _fit(_build(), None, draws[0])
    with pytest.raises(Stop):
        _fit(_build(), tmp_path, draws[1], StopAt(epoch=1), save_every=2)
    _fit(_build(), tmp_path, draws[2], save_every=2)
    assert draws[2].drawn == draws[0].drawn


def test_the_place_in_data_of_no_order_is_saved(tmp_path):
    # One pass: the order of the next ones is nobody's promise.
    x = _maker(lambda: _unordered())
    _check(tmp_path / "a", [StopAt(batch=2)], save_every=1, epochs=1, x=x)
    tmp_path = tmp_path / "b"
    _stopped(_build, tmp_path, StopAt(batch=3), save_every=2, x=x)
    (folder,) = manifest.list_checkpoints(tmp_path)
    names = [name for name, _ in tf.train.list_variables(str(folder / "tensors"))]
    assert [name for name in names if name.startswith("buffers/")] == ["buffers/train"]


def test_data_whose_place_cannot_be_saved_is_told_of(tmp_path, caplog):
    def generated() -> tf.data.Dataset:
        spec = (tf.TensorSpec([None, 6]), tf.TensorSpec([None], tf.int64))
        options = tf.data.Options()
        options.deterministic = False
        made = tf.data.Dataset.from_generator(_generated, output_signature=spec)
        return made.with_options(options)

    with caplog.at_level(logging.WARNING, "tfdist"):
        _fit(_build(), tmp_path, x=generated(), steps_per_epoch=3, save_every=2, epochs=2)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 1
    assert "TensorFlow cannot save its place: " in told[0]


@keras.saving.register_keras_serializable()
class Noise(keras.layers.Layer):
    """Draws from the generator that belongs to nobody."""

    def call(self, inputs: Any, training: bool = False) -> Any:
        if not training:  # as when the model is built: nobody has drawn before the first step
            return inputs
        return inputs + keras.random.normal(keras.ops.shape(inputs), stddev=0.3)


@pytest.mark.parametrize("replicas", [1, 2])
def test_draws_without_a_seed_go_on(tmp_path, replicas):
    def build() -> keras.Model:
        keras.utils.set_random_seed(7)
        state = keras_internals.module("keras.src.backend.common.global_state")
        state.set_global_attribute("global_seed_generator", None)  # as in a new process
        with _strategy(replicas).scope():
            model = keras.Sequential([keras.Input((6,)), Noise(), keras.layers.Dense(3)])
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            model.compile(_adam(), loss, run_eagerly=replicas == 1)
        return model

    _check(tmp_path, [StopAt(epoch=1)], build=build, save_every=2)
