"""Are calls told apart that would compute something else, and only those?"""

from __future__ import annotations

import contextlib
import functools
import inspect

import keras
import numpy as np
import pytest
from models import Codebook
from two_workers import refused

import tfdist
from tfdist import Trainer, testing
from tfdist.training.checks import same_call

_X = np.random.default_rng(0).normal(size=(20, 2))


class _Own(keras.Model):
    """A model whose own configuration tells nothing of its layers."""

    def __init__(self, units):
        super().__init__()
        self.inner = keras.layers.Dense(units)

    def call(self, x):
        return self.inner(x)

    def get_config(self):
        return {}


def _model(optimizer="adam", loss="mse", *, units=3, rate=0.5, own=False, **options):
    if own:
        model = _Own(units)
    else:
        layers = [keras.layers.Dense(units), keras.layers.Dropout(rate), keras.layers.Dense(1)]
        model = keras.Sequential([keras.Input((2,)), *layers])
    model.compile(optimizer, loss, **options)
    return model


def _facts(name="fit", *, model=None, replica_step=None, **arguments):
    given = inspect.signature(getattr(Trainer, name)).bind(None, **{"x": _X, **arguments})
    given.apply_defaults()
    given.arguments.pop("self")
    return functools.partial(
        same_call.require, name, dict(given.arguments), model=model or _model(),
        replica_step=replica_step,
    )


def _told(first, second):
    one, other = refused(
        lambda workers: first(workers=workers), lambda workers: second(workers=workers)
    )
    assert one == other, "all workers are told the same"
    return one


def _clipped(norm):
    return _model(keras.optimizers.SGD(clipnorm=norm))


class _NoConfig:
    """A loss that Keras cannot write down."""

    def __call__(self, y, outputs):
        return keras.ops.mean((y - outputs) ** 2)


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ({"name": "fit"}, {"name": "predict"}, "the call is fit; worker 1: the call is predict"),
        ({"epochs": 2}, {"epochs": 3}, "epochs is 2; worker 1: epochs is 3"),
        ({}, {"shuffle": False}, "shuffle is true; worker 1: shuffle is false"),
        ({}, {"shuffle": "batch"}, "shuffle is true; worker 1: shuffle is batch"),
        ({}, {"validation_data": (_X, _X)}, "validation_data is absent; worker 1: validation_data"),
        ({"steps_per_epoch": 3}, {"steps_per_epoch": 4}, "steps_per_epoch is 3"),
        ({}, {"validation_freq": 2}, "validation_freq is 1"),
        ({"class_weight": {0: 1.0}}, {"class_weight": {0: 2.0}}, "class_weight.0 is 1.0"),
        ({}, {"initial_epoch": 1}, "initial_epoch is 0"),
        ({}, {"batch_size": 5}, "batch_size is 32; worker 1: batch_size is 5"),
        ({}, {"sample_weight": _X}, "sample_weight is absent; worker 1: sample_weight is given"),
        ({}, {"on_nan": "skip"}, "on_nan is warn"),
        ({}, {"check": "warn"}, "check is raise; worker 1: check is warn"),
        ({}, {"fingerprint_every": 4}, "fingerprint_every is null; worker 1: fingerprint_every is"),
        ({}, {"reduction": "bfloat16"}, "reduction is [0, "),
        ({}, {"local_steps": 2}, "local_steps is null"),
        ({}, {"checkpoint_dir": "here"}, "checkpoint_dir is absent"),
        ({}, {"save_every": "10m"}, "save_every is null"),
        ({}, {"already_sharded": True}, "already_sharded is false"),
        ({}, {"length_buckets": (4, 8)}, "length_buckets is null; worker 1: length_buckets is [4"),
        ({}, {"replica_step": print}, "replica_step is absent"),
        (
            {"outer_optimizer": lambda: keras.optimizers.SGD(0.7)},
            {"outer_optimizer": lambda: keras.optimizers.SGD(0.7, momentum=0.9)},
            "outer_optimizer.config.momentum is 0.0",
        ),
        ({"model": _model}, {"model": lambda: _model("sgd")}, "the model.optimizer.class_name is"),
        (
            {"model": lambda: _clipped(1.0)}, {"model": lambda: _clipped(2.0)},
            "the model.optimizer.config.clipnorm is 1.0",
        ),
        ({}, {"model": lambda: _model(loss="mae")}, "the model.loss is mse"),
        ({}, {"model": lambda: _model(metrics=["mae"])}, "the model.metrics is null"),
        ({}, {"model": lambda: _model(units=4)}, "units is 3"),
        ({}, {"model": lambda: _model(rate=0.25)}, "rate is 0.5"),
        ({}, {"model": lambda: _model(run_eagerly=True)}, "the model.run_eagerly is false"),
        (
            {"model": lambda: _model(loss=_NoConfig())},
            {"model": lambda: _model(keras.optimizers.SGD(clipnorm=1.0), loss=_NoConfig())},
            "the model.optimizer",
        ),
        (
            {"model": lambda: _model(own=True)}, {"model": lambda: _model(own=True, units=4)},
            "the model.layers[0].config.units is 3",
        ),
        (
            {"name": "train_on_batch"}, {"name": "train_on_batch", "x": _X + 1},
            "the batch.contents is",
        ),
    ],
)
def test_another_call_is_named(first, second, words):
    makes = ("model", "outer_optimizer")
    made = [
        {name: value() if name in makes else value for name, value in one.items()}
        for one in (first, second)
    ]
    told = _told(*[_facts(**one) for one in made])
    assert told.startswith("The workers were called with different arguments: worker 0: ")
    assert words in told
    assert "Give every worker the same model" in told


def _function(y, outputs):
    return keras.ops.mean((y - outputs) ** 2, axis=-1)


@pytest.mark.parametrize(
    "make",
    [
        lambda: {},
        lambda: {"epochs": np.int64(2), "class_weight": {0: np.float32(1.5)}},
        lambda: {"model": _model(loss=_function)},
        lambda: {"model": _model(loss=lambda y, outputs: y - outputs)},
        lambda: {"model": _model(loss=_NoConfig(), metrics=[keras.metrics.AUC()])},
        lambda: {"model": _model(own=True)},
        lambda: {"model": _model(keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(0.1, 9)))},
        lambda: {"callbacks": [keras.callbacks.TerminateOnNaN()]},
        lambda: {"validation_data": (_X, _X), "sample_weight": np.ones(20)},
        lambda: {"name": "train_on_batch", "y": _X[:, :1], "class_weight": None},
        lambda: {"name": "predict_on_batch"},
    ],
)
def test_the_same_call_from_another_process_is_the_same(make):
    for _ in range(3):  # the counters of Keras's default names go on
        keras.layers.Dense(1)
    assert _told(_facts(**make()), _facts(**make())) == ""


def test_what_is_written_or_shown_may_differ():
    mine = {"verbose": 1, "callbacks": [keras.callbacks.ModelCheckpoint("x.keras")]}
    assert _told(_facts(**mine), _facts(verbose=0, check="raise", batch_size=32)) == ""


def test_seeds_are_compared(monkeypatch):
    seeds = iter([1, 1, 1, 2])
    monkeypatch.setattr(same_call.keras_internals, "random_seed", lambda: next(seeds))
    assert _told(_facts(), _facts()) == ""
    assert "the seed of keras.utils.set_random_seed is 1" in _told(_facts(), _facts())


def test_a_model_is_described_again_once_it_is_compiled_again():
    model = _model()
    first = same_call.described(model, is_read_again=False)
    assert same_call.described(model, is_read_again=False) is first
    model.compile("sgd", "mse")
    assert same_call.described(model, is_read_again=False).text != first.text


# ------------------------------------------------------------------------------- two real workers


def _on_worker():
    """What each of two workers is told in calls that do not fit together; one process for all."""
    strategy = tfdist.get_strategy("cpu")
    assert strategy.num_replicas_in_sync == 2
    rank, said = tfdist.detect_cluster().rank, {}

    def model(**options):
        keras.utils.set_random_seed(1)
        with strategy.scope():
            return _model(**options)

    @contextlib.contextmanager
    def noted(name):
        said[name] = ""
        try:
            yield
        except (ValueError, RuntimeError) as error:
            said[name] = str(error)

    plain = model()
    fit = {"batch_size": 5, "epochs": 1, "verbose": 0}
    with noted("alike"):
        tfdist.fit(plain, _X, _X[:, :1], **fit)
    with noted("shuffle"):
        tfdist.fit(plain, _X, _X[:, :1], shuffle=rank == 0, **fit)
    with noted("epochs"):
        tfdist.fit(plain, _X, _X[:, :1], **{**fit, "epochs": 1 + rank})
    with noted("validation"):
        tfdist.fit(plain, _X, _X[:, :1], validation_data=(_X + rank, _X[:, :1]), **fit)
    with noted("loss"):
        tfdist.fit(model(loss=["mse", "mae"][rank]), _X, _X[:, :1], **fit)
    with noted("the chief alone predicts"):
        if rank == 0:
            tfdist.predict(plain, _X, verbose=0)
        else:
            tfdist.fit(plain, _X, _X[:, :1], **fit)
    with noted("the chief alone predicts in a callback"):
        act = keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda *_: rank or tfdist.predict(plain, _X, verbose=0)
        )
        tfdist.fit(plain, _X, _X[:, :1], callbacks=[act], **fit)
    with noted("weights of one worker"):
        if rank == 1:
            plain.set_weights([weight * 2 for weight in plain.get_weights()])
        tfdist.predict(plain, _X, verbose=0)
    with noted("a state that parts"), strategy.scope():
        own = keras.Sequential([keras.Input((2,)), Codebook(), keras.layers.Dense(1)])
        own.compile("sgd", "mse")
        tfdist.fit(own, _X, _X[:, :1], check=False, fingerprint_every=2, **fit)
    with noted("units"):  # last, since TensorFlow's collectives end with it
        model(units=3 + rank)
    return said


@pytest.mark.slow  # 20 s; what TensorFlow does with workers that call different things
def test_two_workers_are_told_before_they_train():
    first, second = testing.run_workers(_on_worker)
    for rank, text in enumerate((first.pop("units"), second.pop("units"))):
        assert f"Worker {rank} makes the variable 'kernel', and another worker makes anot" in text
        assert "in the same order on all workers" in text
    assert first == second
    assert first.pop("alike") == ""
    words = {
        "shuffle": "worker 0: shuffle is true; worker 1: shuffle is false",
        "epochs": "worker 0: epochs is 1; worker 1: epochs is 2",
        "validation": "different data: worker 0: contents is",
        "loss": "worker 0: the model.loss is mse; worker 1: the model.loss is mae",
        "the chief alone predicts": "worker 0: the call is predict; worker 1: the call is fit",
        "the chief alone predicts in a callback": (
            "worker 0 is at the beginning of predict inside of fit, and worker 1 at an agreement "
            "of fit"
        ),
        "weights of one worker": "kernel' differs (4 of 14 variables do): workers [0] hold one",
        "a state that parts": "After step 2 the replicas no longer hold the same weights: 'model/",
    }
    assert first.keys() == words.keys()
    for name, text in words.items():
        assert text in first[name]
